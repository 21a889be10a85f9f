"""Kill every command that writes, with -9 and at random moments, and look at what is left: the old file or the new one.

    python benchmarks/nothing_lost.py                           # 200 kills each
    python benchmarks/nothing_lost.py "sift train" --kills 1000

Runs are forked from one process that has imported everything, and write small models; ``tests/killing.py`` says when
they are killed. What is left is looked at after each kill, and again after the next run. Widths and ONNX graphs, which
take most of the time and depend on no output, are computed by that process once.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"  # a forked process has no other threads

import killing  # noqa: E402
import numpy as np  # noqa: E402
import tinyhf  # noqa: E402
import torch  # noqa: E402
from killing import Writer  # noqa: E402

from sift_cli.app import app  # noqa: E402
from sift_cli.commands import demo as demo_command  # noqa: E402
from sift_cli.core.scratch import SUFFIX  # noqa: E402
from sift_cli.transforms import _widen  # noqa: E402
from sift_cli.verify import evidence, onnx_export  # noqa: E402

OLD = b"precious" * 10_000
ARCH = ("--arch", "nets:tiny_resnet", "--input", "1x3x8x8")
RECIPE = """
model: trainnets:TinyLanguageModel
data: {name: text, path: text.txt, length: 8}
rule: {name: gmp, sparsity: 0.5, frequency: 1, only: [first, hidden]}
optimizer: {name: adamw, lr: 1e-2}
batch: 8
steps: 12
evaluate: 3
checkpoint: 2
"""


def sift(*arguments: str) -> None:
    app(list(arguments), prog_name="sift")


def remember(module: ModuleType, name: str) -> None:
    """Have a function of a model compute only once what it does for the same weights and options."""
    real, known = getattr(module, name), {}

    def remembered(model: torch.nn.Module, *arguments: object, **options: object) -> object:
        plain = {key: value for key, value in options.items() if not callable(value)}
        weights = hashlib.sha256(type(model).__name__.encode())
        for weight, tensor in model.state_dict().items():
            weights.update(f"{weight} {tuple(tensor.shape)}".encode())
            weights.update(b"" if tensor.is_meta else tensor.numpy().tobytes())
        key = f"{weights.hexdigest()} {plain}"
        if key not in known:
            known[key] = real(model, *arguments, **options)
        return copy.deepcopy(known[key])

    setattr(module, name, remembered)


def prepare(folder: Path) -> None:
    """What the commands read."""
    from sift_cli import api
    from sift_cli.models import load

    torch.save(load("nets:tiny_resnet", input_shape=(1, 3, 8, 8)).module.state_dict(), folder / "tiny.pt")
    asked = {"arch": "nets:tiny_resnet", "input_shape": (1, 3, 8, 8), "sparsity": "3/4"}
    api.transform(folder / "tiny.pt", folder / "wide.safetensors", **asked)
    api.export(folder / "wide.safetensors", folder / "wide.onnx", arch="nets:tiny_resnet", input_shape=(1, 3, 8, 8))
    tinyhf.folder(folder / "gpt2", "gpt2")
    api.transform(folder / "gpt2", folder / "gpt2-wide", sparsity="3/4")
    text = np.random.default_rng(0).integers(97, 123, 2000, dtype=np.uint8)
    (folder / "text.txt").write_bytes(text.tobytes())
    (folder / "text.yaml").write_text(RECIPE)


def some_file(path: Path) -> None:
    path.write_bytes(OLD)


def some_folder(path: Path) -> None:
    """One that sift takes for its own, with more in it than it writes."""
    (path / "notes").mkdir(parents=True)
    for name in ("sift.safetensors", "model.safetensors", "notes/mine.txt"):
        some_file(path / name)


def some_baseline(path: Path) -> None:
    path.write_text(json.dumps({"schema": "sift.baseline/1", "files": {"tiny.pt": {"size": 1}}}))


def command(target: str, *arguments: str) -> Writer:
    """``sift ARGUMENTS -o TARGET``; the next run is one of the quickest that can write such a target."""

    def write(force: bool) -> None:
        sift(*arguments, "-o", target, *(["--force"] if force else []))

    def again() -> None:
        source = "wide.safetensors" if Path(target).suffix else "gpt2-wide"
        sift("densify", source, *ARCH[:2], "-o", target, "--force")

    quick = arguments[0] == "densify" or target.endswith(".onnx")
    old = some_file if Path(target).suffix else some_folder
    return Writer(f"sift {arguments[0]} → {target}", write, target, old, None if quick else again)


def conversion(target: str, source: str, *arguments: str) -> Writer:
    """``sift convert SOURCE TARGET``, of which the next run goes on with what a killed one has written."""

    def write(force: bool) -> None:
        sift("convert", source, target, *arguments, *(["--force"] if force else []))

    return Writer(f"sift convert → {target}", write, target, some_file if Path(target).suffix else some_folder)


def outputs(target: str) -> Writer:
    """The outputs of a model that was run."""

    def write(force: bool) -> None:
        sift("run", "wide.onnx", "-o", target, *(["--force"] if force else []))

    return Writer(f"sift run → {target}", write, target, some_file)


def update_baseline(force: bool) -> None:
    sift("check", "tiny.pt", "wide.safetensors", "--max-size", "1GB", "--baseline", "base.json", "--update-baseline")


def train(force: bool) -> None:
    sift("train", "text.yaml", "-o", "run", *(["--force"] if force else []))


def resume() -> None:
    sift("train", "text.yaml", "-o", "run", "--resume")


def trained(path: Path) -> str:
    """The weights and the log of a run, but for the seconds; "nothing" of one that is not at its end.

    Raises:
        ValueError: A file in it is a half.
    """
    from sift_cli.checkpoint import open_checkpoint

    if not path.exists():
        return "nothing"
    for one in (path / "best.safetensors", path / "last.safetensors"):
        if one.exists():
            with open_checkpoint(one) as checkpoint:
                for name in checkpoint.tensors:
                    checkpoint.read(name)
    state = torch.load(path / "state.pt", weights_only=True) if (path / "state.pt").exists() else {"step": 0}
    if state["step"] < 12:
        return "nothing"
    with open(path / "log.csv", newline="") as file:
        log = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    files = [killing.content(path / name) for name in ("best.safetensors", "last.safetensors", "recipe.yaml")]
    named = sorted(one for one in os.listdir(path) if SUFFIX not in one)  # the next run removes those
    return str((files, log, named))


def demo(force: bool) -> None:
    sift("demo", "-o", "demo", "--sparsity", "0.75", *(["--force"] if force else []))


def demonstrated(path: Path) -> str:
    """Both files of a demo; "nothing" where one of them is missing or old.

    Raises:
        ValueError: One of them is neither an old nor a whole one.
    """
    from sift_cli.checkpoint import open_checkpoint

    files = sorted(one for one in path.glob("demo-*") if one.read_bytes() != OLD)
    for one in files:
        with open_checkpoint(one) as checkpoint:
            for name in checkpoint.tensors:
                checkpoint.read(name)
    return str([killing.content(one) for one in files]) if len(files) == 2 else "nothing"


def some_demo(path: Path) -> None:
    path.mkdir()
    for suffix in ("safetensors", "onnx"):
        some_file(path / f"demo-wide-0.75.{suffix}")


WRITERS = (
    command("out.safetensors", "transform", "tiny.pt", *ARCH, "--sparsity", "0.75"),
    command("out-folder", "transform", "gpt2", "--sparsity", "0.75"),
    command("again.safetensors", "export", "wide.safetensors", *ARCH),
    command("out.onnx", "export", "wide.safetensors", *ARCH),
    command("again-folder", "export", "gpt2-wide"),
    command("dense.safetensors", "densify", "wide.safetensors", *ARCH[:2]),
    command("dense.pt", "densify", "wide.safetensors", *ARCH[:2]),
    command("dense-folder", "densify", "gpt2-wide"),
    conversion("converted.safetensors", "tiny.pt", "--min-sparsity", "0.01"),
    conversion("converted.pt", "wide.safetensors", "--to", "mask"),
    conversion("converted-folder", "gpt2-wide", "--shard-size", "20kB"),
    conversion("converted.onnx", "wide.onnx", "--to", "coo"),
    outputs("y.npy"),
    outputs("y.npz"),
    Writer("sift check → base.json", update_baseline, "base.json", some_baseline),
    Writer("sift train → run", train, "run", lambda path: None, resume, trained, goes_on=True),
    Writer("sift demo → demo", demo, "demo", some_demo, digest=demonstrated),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="commands, by the beginning of their names")
    parser.add_argument("--kills", type=int, default=200, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    demo_command.MODEL = "timm:test_resnet"  # which takes less time
    for module, name in ((_widen, "trace_widths"), (evidence, "to_onnx"), (onnx_export, "to_onnx")):
        remember(module, name)
    print("| command | kills | old | new | half | litter | minutes |\n|---|---|---|---|---|---|---|")
    failed = []
    for writer in WRITERS:
        if asked.only and not any(writer.name.startswith(one) for one in asked.only):
            continue
        with tempfile.TemporaryDirectory(prefix="sift-kills-") as name:
            began = time.monotonic()
            prepare(Path(name))
            killing.warmed(writer, Path(name))
            found = killing.campaign(writer, Path(name), asked.kills, asked.seed)
        counts = (found.kills, found.found["old"], found.found["new"], found.found["half"], found.litter)
        cells = (writer.name, *counts, f"{(time.monotonic() - began) / 60:.1f}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        failed += [f"{writer.name}: {what}" for what in found.failed]
    print("\n".join(failed), file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
