"""What `sift convert` takes beside `cp`, in time and memory, on a sharded folder of the size of a language model.

The folder has the tensors of a Llama's layers in bfloat16, a share of the elements of each matrix being 0. Every job
runs in a process of its own, from files that are not in the page cache, until its output is on the disk; copies and
conversions take turns. Memory is the largest resident set of a process.

    python benchmarks/convert.py --folder /tmp/convert --gigabytes 20 --sparsity 0.75 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from sift_cli.checkpoint import open_checkpoint, safetensors_header

#: Name, and shape, of the tensors of a layer of 4096 channels (Llama 2 7B), and what is around the layers.
LAYER = {
    "self_attn.q_proj.weight": (4096, 4096),
    "self_attn.k_proj.weight": (4096, 4096),
    "self_attn.v_proj.weight": (4096, 4096),
    "self_attn.o_proj.weight": (4096, 4096),
    "mlp.gate_proj.weight": (11008, 4096),
    "mlp.up_proj.weight": (11008, 4096),
    "mlp.down_proj.weight": (4096, 11008),
    "input_layernorm.weight": (4096,),
}
AROUND = {"model.embed_tokens.weight": (32000, 4096), "lm_head.weight": (32000, 4096)}
SHARD = 4 * 10**9
JOBS = {
    "cp": ["cp", "-r", "{dense}", "{out}"],
    "dense → dense": ["{sift}", "convert", "{dense}", "{out}", "--to", "dense"],
    "dense → dense, not verified": ["{sift}", "convert", "{dense}", "{out}", "--to", "dense", "--no-verify"],
    "dense → sift": ["{sift}", "convert", "{dense}", "{out}", "--to", "sift"],
    "dense → sift, not verified": ["{sift}", "convert", "{dense}", "{out}", "--to", "sift", "--no-verify"],
    "sift → dense": ["{sift}", "convert", "{sparse}", "{out}", "--to", "dense"],
}


def make(folder: Path, gigabytes: float, sparsity: float) -> None:
    """The dense folder, unless it is there."""
    shapes = dict(AROUND)
    for layer in range(10**6):
        if sum(2 * int(np.prod(shape)) for shape in shapes.values()) >= gigabytes * 1e9:
            break
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER.items()}
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if sum(2 * int(np.prod(one)) for one in (*shards[-1].values(), shape)) > SHARD:
            shards.append({})
        shards[-1][name] = shape
    folder.mkdir()
    weight_map = {}
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(2**24, np.float32).astype(ml_dtypes.bfloat16)
    numbers[rng.random(numbers.size) < sparsity] = 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header, order = safetensors_header.layout({name: ("BF16", shape) for name, shape in shard.items()}, {})
        with open(folder / file, "wb") as out:
            out.write(header)
            for name in order:
                # The same numbers from another place on: nothing here depends on them.
                values = np.resize(np.roll(numbers, int(rng.integers(numbers.size))), shard[name])
                out.write(values.view(np.uint8).data)
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def forget(*folders: Path) -> None:
    """Take files out of the page cache."""
    os.sync()
    for folder in folders:
        for file in folder.rglob("*") if folder.exists() else ():
            if file.is_file():
                handle = os.open(file, os.O_RDONLY)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)


def timed(command: list[str], out: Path) -> tuple[float, int]:
    """Seconds until the output is on the disk, and the peak resident set in bytes."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    os.sync()
    took = time.perf_counter() - begin
    shutil.rmtree(out)
    return took, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the files; twice the size is needed")
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sift", default=shutil.which("sift") or "sift")
    parser.add_argument("--job", choices=JOBS, action="append", help="by default all")
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    dense, sparse, out = (args.folder / name for name in ("dense", "sparse", "out"))
    if not dense.exists():
        make(dense, args.gigabytes, args.sparsity)
    jobs = args.job or list(JOBS)
    if "sift → dense" in jobs and not sparse.exists():
        subprocess.run([args.sift, "convert", dense, sparse, "--to", "sift"], check=True)
    with open_checkpoint(dense) as checkpoint:
        sizes = sorted(spec.dense_bytes for spec in checkpoint.tensors.values())
    shutil.rmtree(out, ignore_errors=True)
    seconds: dict[str, list[float]] = {job: [] for job in jobs}
    memory = dict.fromkeys(jobs, 0)
    for _ in range(args.rounds):
        for job in jobs:
            forget(dense, sparse)
            filled = [part.format(dense=dense, sparse=sparse, out=out, sift=args.sift) for part in JOBS[job]]
            took, peak = timed(filled, out)
            seconds[job].append(took)
            memory[job] = max(memory[job], peak)
    print(f"{sum(sizes) / 1e9:.1f} GB, the two largest tensors together {sum(sizes[-2:]) / 1e6:.0f} MB\n")
    print("| job | seconds | of cp's time | peak memory, MB |\n|---|---|---|---|")
    for job in jobs:
        ratios = [mine / cp for mine, cp in zip(seconds[job], seconds.get("cp", seconds[job]), strict=True)]
        print(
            f"| {job} | {statistics.median(seconds[job]):.1f} | {statistics.median(ratios):.2f} "
            f"| {memory[job] / 1e6:.0f} |"
        )


if __name__ == "__main__":
    main()
