"""The native library against damaged models, under AddressSanitizer and UndefinedBehaviorSanitizer: docs/security.md.

    python benchmarks/fuzz/native.py                             # builds the library with sanitizers; ten minutes
    python benchmarks/fuzz/native.py --library build/libsift_ops.so --models 100000
    python benchmarks/fuzz/native.py --library build/libsift_ops.so --first 4711 --models 1

Each model has a number, which is all that it is made of (``tests/attacks/nodes.py``); what it has to do is said in
numpy (``node_meaning.py``). Models are opened and run in onnxruntime, a batch of them a process. A process that a
sanitizer ends, that crashes, or that takes ten seconds of the processor for one model is a finding, as is a wrong
number, and a model that should have been refused, or not; the exit code is then 1. A library with sanitizers is
recognised by itself.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BATCH = 500
SHOWN = 20  # findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="by default one is built, with sanitizers")
    parser.add_argument("--first", type=int, default=1, help="number of the first model")
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600, help="begin no batch after so many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = args.library or build(Path(folder))
        environment = {
            **os.environ,
            "SIFT_LIBRARY": str(library.resolve()),
            "OMP_NUM_THREADS": "1",
            **sanitizers(library),
        }
        began = time.monotonic()
        firsts = range(args.first, args.first + args.models, BATCH)

        def batch(first: int) -> dict[str, Any]:
            if time.monotonic() > began + args.seconds:
                return {}
            return attack(first, min(BATCH, args.first + args.models - first), Path(folder) / str(first), environment)

        with ThreadPoolExecutor(args.jobs) as pool:
            done = list(filter(None, pool.map(batch, firsts)))
    seconds = time.monotonic() - began
    endings = sum((collections.Counter(one["endings"]) for one in done), collections.Counter())
    findings = {int(seed): text for one in done for seed, text in one["findings"].items()}
    models = sum(endings.values()) + len(findings)
    print(f"{models:,} models in {seconds:.0f} s, {models / seconds:.0f} a second")
    print("\n".join(f"    {count:8,} {ending}" for ending, count in endings.most_common()))
    print(
        f"slowest: {max(one['slowest'][0] for one in done):.2f} s; memory: {max(one['megabytes'] for one in done)} MB"
    )
    for seed, text in sorted(findings.items())[:SHOWN]:
        print(f"model {seed}: {text}")
    print(f"{len(findings)} findings")
    sys.exit(bool(findings))


def build(folder: Path) -> Path:
    options = ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DSIFT_SANITIZE=address,undefined"]
    subprocess.run(["cmake", "-S", ROOT / "native", "-B", folder, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "--target", "sift_ops", "--parallel"], check=True)
    return folder / "libsift_ops.so"


def sanitizers(library: Path) -> dict[str, str]:
    """What a process needs that loads ``library``: the runtime of AddressSanitizer, where it has that, in front."""
    if b"__asan_init" not in library.read_bytes():
        return {}
    names = (
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")  # the second for the exceptions of onnxruntime
    )
    return {
        "LD_PRELOAD": " ".join(names),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=8192",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def attack(first: int, count: int, progress: Path, environment: dict[str, str]) -> dict[str, Any]:
    """How the models of ``count`` numbers from ``first`` on ended. Where one ends its process, others do the rest."""
    script = ROOT / "tests" / "attacks" / "node_promise.py"
    command = [sys.executable, "-W", "ignore", str(script), str(first), str(count), str(progress)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return dict(json.loads(done.stdout))
    if not progress.exists():
        sys.exit(f"no model was attacked\n{done.stderr[-4000:]}")
    seed = int(progress.read_text())
    found = {seed: f"its process ended with {done.returncode}\n{done.stderr[-4000:]}"}
    rest = [
        attack(*part, progress, environment)
        for part in ((first, seed - first), (seed + 1, first + count - seed - 1))
        if part[1]
    ]
    return {
        "endings": dict(sum((collections.Counter(one["endings"]) for one in rest), collections.Counter())),
        "findings": {**found, **{key: text for one in rest for key, text in one["findings"].items()}},
        "slowest": max([one["slowest"] for one in rest], default=[0.0, seed]),
        "megabytes": max((one["megabytes"] for one in rest), default=0),
    }


if __name__ == "__main__":
    main()
