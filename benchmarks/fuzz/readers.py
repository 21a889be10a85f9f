"""Coverage-guided fuzzing of the checkpoint readers, with atheris: files that make sift break ``docs/security.md``.

    pip install atheris
    python benchmarks/fuzz/readers.py                                             # every reader, a table at the end
    python benchmarks/fuzz/readers.py --reader safetensors --executions 200000
    python benchmarks/fuzz/readers.py --reader onnx --input findings/onnx/3f1c    # one file again, with its traceback

Seeds, mutations and what is promised are those of ``tests/attacks``: a mutation changes a field, a record or an opcode
and packs the file again, libFuzzer changes bytes within it, and what reaches new code is kept to go on from. Each
reader runs in a process of its own. What breaks a promise is written to ``--findings``, one file a place in the code,
and the fuzzer goes on; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

READERS = (
    *("safetensors", "compressed_tensors", "folder", "torch_zip", "torch_legacy", "torch_tar"),
    *("torchscript", "exported_program", "npz", "onnx", "configuration"),
)
#: Modules whose branches guide the fuzzer.
INSTRUMENTED = ["sift_cli.checkpoint", "sift_cli.sparsity", "sift_cli.core", "sift_cli.budgets"]
MAX_LENGTH = 16 * 1024
CONFIGURATION = {
    "sift.toml": b'baseline = "sift-baseline.json"\ntolerance = "+2%"\n[[check]]\npaths = ["*.onnx"]\n'
    b'max-size = "20 MB"\nmax-flops = "2G"\nmin-sparsity = 0.9\nshape = [1, 3, 8, 8]\niso-flop-of = "base.pt"\n',
    "sift-baseline.json": b'{"schema": "sift.baseline/1", "files": {"a.onnx": {"bytes": 5, "nonzero": 2, "macs": 7}}}',
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=READERS, action="append", help="by default all, one after another")
    parser.add_argument("--executions", type=int, default=200_000)
    parser.add_argument("--seconds", type=int, default=0, help="end a reader after so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--input", type=Path, help="look at this one file")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        fuzz(args.reader[0], args)
    elif args.input:
        look(args.reader[0], args.input)
    else:
        rows = [run(reader, args) for reader in args.reader or READERS]
        print("| reader | executions | seconds | edges | corpus | findings |\n|---|---|---|---|---|---|")
        for row in rows:
            print("| " + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row) + " |")
        sys.exit(any(row[-1] for row in rows))


def run(reader: str, args: argparse.Namespace) -> tuple[str, int, int, int, int, int]:
    """Fuzz one reader in a process of its own: executions, seconds, edges covered, files in the corpus, findings."""
    findings = args.findings / reader
    shutil.rmtree(findings, ignore_errors=True)
    command = [sys.executable, __file__, "--inside", "--reader", reader, "--executions", str(args.executions)]
    command += ["--seconds", str(args.seconds), "--seed", str(args.seed), "--findings", str(args.findings)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    seconds = round(time.monotonic() - began)
    states = re.findall(r"#(\d+)\t\w+\s+cov: (\d+) ft: \d+ corp: (\d+)", done.stderr)
    if not states or done.returncode:
        sys.exit(f"{reader}: the fuzzer ended with {done.returncode}\n{done.stderr[-4000:]}")
    executions, edges, corpus = map(int, states[-1])
    return reader, executions, seconds, edges, corpus, len(list(findings.glob("*.txt")))


def target(reader: str, folder: Path) -> Callable[[bytes], None]:
    """What writes an input below ``folder``, and looks at it as ``docs/security.md`` promises."""
    from attacks.mutations import unpacked
    from attacks.promise import keep
    from attacks.seeds import SEEDS

    from sift_cli.budgets import baseline, config
    from sift_cli.errors import SiftError

    (folder / "secret").write_bytes(b"secret")
    path = folder / "inside" / "model"
    path.parent.mkdir()
    if reader == "onnx":
        SEEDS["onnx"]["external"](path)

    def settings(path: Path) -> None:
        for read, name in ((config.load, "sift.toml"), (baseline.read, "sift-baseline.json")):
            with contextlib.suppress(SiftError):
                read(path / name)

    def files(data: bytes) -> None:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, content in unpacked(data).items():
            if name.strip(".") and "/" not in name and name.isprintable():
                (path / name).write_bytes(content)
        keep(path, look=settings) if reader == "configuration" else keep(path)

    def file(data: bytes) -> None:
        path.write_bytes(data)
        keep(path)

    return files if reader in ("folder", "configuration") else file


def seeds(reader: str, folder: Path) -> None:
    """Write the reader's seeds to ``folder``, as inputs of :func:`target`."""
    from attacks.mutations import packed
    from attacks.seeds import SEEDS

    folder.mkdir()
    if reader == "configuration":
        (folder / "both").write_bytes(packed(CONFIGURATION))
        return
    for name, write in SEEDS[reader].items():
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "model")
            write(path)
            data = (
                packed({one.name: one.read_bytes() for one in path.iterdir()}) if path.is_dir() else path.read_bytes()
            )
        (folder / name.replace(" ", "_")).write_bytes(data)


def fuzz(reader: str, args: argparse.Namespace) -> None:
    """Fuzz in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from attacks import mutations
        from attacks.promise import look as _  # noqa: F401 - imports what is to be instrumented

        from sift_cli.budgets import baseline, config  # noqa: F401 - as above
        from sift_cli.registry import discover

        for package in ("checkpoint.readers", "checkpoint.sidebands", "sparsity.formats"):
            discover(f"sift_cli.{package}")
    scratch = Path(tempfile.mkdtemp(prefix="sift-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    seeds(reader, scratch / "corpus")
    attempt = target(reader, scratch)
    mutate: Any = mutations.MUTATIONS.get(reader, mutations.folder)
    findings = args.findings / reader
    known: set[str] = set()

    def one_input(data: bytes) -> None:
        try:
            attempt(data)
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "sift_cli" in f.filename]
            where = (
                f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}" if frames else str(error)[:60]
            )
            if where not in known:
                known.add(where)
                findings.mkdir(parents=True, exist_ok=True)
                (findings / f"{len(known)}").write_bytes(data)
                (findings / f"{len(known)}.txt").write_text(traceback.format_exc())

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = mutate(data, rng, lambda plain: atheris.Mutate(plain, len(plain) + 8))
        return changed[:max_size]

    options = [
        f"-runs={args.executions}",
        f"-max_total_time={args.seconds}",
        f"-seed={args.seed}",
        "-rss_limit_mb=4096",
    ]
    options += [f"-max_len={MAX_LENGTH}", "-timeout=60", f"-artifact_prefix={scratch}/", str(scratch / "corpus")]
    try:
        atheris.Setup(["fuzz", *options], one_input, custom_mutator=mutator)
        atheris.Fuzz()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def look(reader: str, path: Path) -> None:
    """Look at one input; a broken promise is raised."""
    with tempfile.TemporaryDirectory() as scratch:
        target(reader, Path(scratch))(path.read_bytes())


if __name__ == "__main__":
    main()
