"""The whole sentence, the hint and the facts of each class of error, for people and as JSON, where it really occurs."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import Result

from sift_cli import api, errors
from sift_cli.errors import SiftError

Sift = Callable[..., Result]
ROOT = Path(__file__).parents[2]
#: A product that fvcore does not see, and a forward pass that is never right.
CUSTOM = """
import torch
from torch import nn

class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return x @ weight

class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))

    def forward(self, x):
        return Product.apply(x, self.weight)

class Stubborn(nn.Linear):
    def __init__(self):
        super().__init__(3, 5)

    def forward(self, x):
        raise ValueError("not today")
"""


@dataclass(frozen=True)
class Golden:
    """What a command line says and how it ends. ``around`` is the rest of the situation."""

    arguments: str
    code: int
    message: str
    hint: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    around: Callable[[pytest.MonkeyPatch], contextlib.AbstractContextManager[None]] | None = None


@contextlib.contextmanager
def being_written(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from sift_cli.core.scratch import scratch

    with scratch(Path("out.safetensors")):
        yield


@contextlib.contextmanager
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    yield


@contextlib.contextmanager
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SIFT_LIBRARY", "nowhere.so")
    yield


@contextlib.contextmanager
def asking_by_name(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only callers from Python ask for a tensor by its name; commands ask for those that a file lists."""
    from sift_cli.checkpoint import open_checkpoint

    def read(path: Path, **_: object) -> None:
        with open_checkpoint(path) as checkpoint:
            checkpoint.read("weigth")

    monkeypatch.setattr(api, "inspect", read)
    yield


@contextlib.contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """By Ctrl-C while it reads."""

    def inspect(*_: object, **__: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born without it
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(api, "inspect", inspect)
    yield


@contextlib.contextmanager
def two_of_timms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They pad differently, which no tensor shows."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs timm")
    from sift_cli.compat import import_timm

    timm = import_timm()
    with torch.device("meta"):
        state = timm.create_model("tf_efficientnet_b0", num_classes=7).state_dict()
    torch.save({name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in state.items()}, "tie.pt")
    yield


NOWHERE = "there is no such file"
GOLDEN: dict[type[SiftError], Golden] = {
    errors.UsageError: Golden(
        "flops builtin:cifar_resnet18 --dim batch",
        2,
        "Invalid value for --dim: 'batch' is not NAME=SIZE",
        "sift flops --help",
    ),
    errors.ConfigError: Golden(
        "check",
        2,
        "there is nothing to check: no PATH is given, and no sift.toml or [tool.sift] has one",
        "sift check model.onnx --max-size 20MB",
    ),
    errors.CheckpointError: Golden(
        "inspect notes.txt",
        3,
        "notes.txt is not a checkpoint sift knows: its first bytes are 61 6c 6c 20 69 73 20 77",
        "sift reads exported_program, npz, onnx, safetensors, torch_legacy, torch_tar, torch_zip, torchscript",
    ),
    errors.Unreadable: Golden(
        "inspect nowhere.pt", 3, f"cannot read nowhere.pt: {NOWHERE}", None, {"path": "nowhere.pt", "why": NOWHERE}
    ),
    errors.Malformed: Golden(
        "inspect cut.safetensors",
        3,
        "cut.safetensors is damaged at byte 92: the tensors end at 96, the file at 92",
        None,
        {"path": "cut.safetensors", "at": "byte 92", "why": "the tensors end at 96, the file at 92"},
    ),
    errors.UnsafePickle: Golden(
        "inspect bomb.pt",
        3,
        "bomb.pt is a pickle that runs code when it is loaded; it needs: posix.system",
        "if you trust whoever made it, pass --allow-pickle; it is safer to save a state_dict or safetensors",
        {"path": "bomb.pt", "globals": ["posix.system"]},
    ),
    errors.MissingTensor: Golden(
        "inspect m.safetensors",
        3,
        "m.safetensors has no tensor 'weigth'",
        "did you mean 'weight'?",
        {"path": "m.safetensors", "name": "weigth", "nearest": "weight"},
        asking_by_name,
    ),
    errors.ModelError: Golden(
        "densify m.safetensors -o out.safetensors",
        4,
        "m.safetensors is dense: it has no masks, and no NaN in the place of weights",
        "fine-tune it as it is",
    ),
    errors.UnknownArchitecture: Golden(
        "flops timm:mnist1d_cnn",
        4,
        "there is no architecture timm:mnist1d_cnn",
        "did you mean builtin:mnist1d_cnn?",
        {"nearest": ["builtin:mnist1d_cnn"]},
    ),
    errors.AmbiguousArchitecture: Golden(
        "flops tie.pt",
        4,
        "tie.pt fits 3 architectures equally well: timm:efficientnet_b0, timm:tf_efficientnet_b0, "
        "timm:efficientnet_blur_b0",
        "pass --arch timm:efficientnet_b0 (or another of them)",
        {
            "path": "tie.pt",
            "candidates": ["timm:efficientnet_b0", "timm:tf_efficientnet_b0", "timm:efficientnet_blur_b0"],
        },
        two_of_timms,
    ),
    errors.MissingExtra: Golden(
        "flops timm:resnet18",
        4,
        "timm:resnet18 needs the package torchvision, which is not installed",
        "pip install 'sift-cli[timm]'",
        {"package": "torchvision", "extra": "timm"},
        nothing_installed,
    ),
    errors.UnsupportedOp: Golden(
        "transform custom_modules:Stubborn --input 1x3 --sparsity .5 --dry-run",
        4,
        "forward in Stubborn is not supported: it does not run on these inputs (ValueError: not today)",
        None,
        {"op": "forward", "module": "Stubborn"},
    ),
    errors.PlanError: Golden(
        "transform m.safetensors --plan plan.json",
        5,
        "plan.json is not a plan: not a sift.plan/1 document",
        "make one with --dry-run --json",
    ),
    # k² = 10⁵: stem and head, which stay dense, cost √10⁵ = 316 times what they did; 552,256 MACs are all there are.
    errors.Infeasible: Golden(
        "transform nets:tiny_resnet --input 1x3x8x8 --sparsity 0.99999 --dry-run",
        5,
        "wide is not feasible on the model: it needs at least 176 MACs for its sparse layers but has -8,290,876 left "
        "by the layers that stay dense",
        "lower --sparsity, let more layers be sparse, or use --match layer",
        {
            "transform": "wide",
            "layer": "the model",
            "need": "at least 176 MACs for its sparse layers",
            "have": "-8,290,876 left by the layers that stay dense",
        },
    ),
    errors.VerificationFailed: Golden(
        "flops custom_modules:Hidden --input 1x3",
        6,
        "fvcore and torch's dispatcher disagree on (dense, sparse) MACs of (top): (0, 0) and (15, 15)",
        "an operator that only one of them sees through; compare the uncounted operators of both",
        {"certificate": None},
    ),
    errors.ExportError: Golden(
        "export m.safetensors -o model.bin",
        7,
        "the suffix of model.bin tells no format",
        "pass --format onnx or --format safetensors",
    ),
    errors.RuntimeUnavailable: Golden(
        "export m.onnx -o out.onnx --tune",
        8,
        "SIFT_LIBRARY names nowhere.so, which is not a file",
        "unset SIFT_LIBRARY to use the installed one",
        {},
        no_library,
    ),
    errors.OutputExists: Golden(
        "densify m.safetensors -o there.safetensors",
        9,
        "there.safetensors already exists",
        "pass --force to replace it",
        {"path": "there.safetensors"},
    ),
    errors.OutputUnwritable: Golden(
        "densify m.safetensors -o no/out.safetensors",
        9,
        "cannot write no/out.safetensors: the folder no does not exist",
        None,
        {"path": "no/out.safetensors", "why": "the folder no does not exist"},
    ),
    errors.OutputBusy: Golden(
        "densify m.safetensors -o out.safetensors",
        10,
        "another process is writing out.safetensors",
        "wait until it is done, or name another output",
        {"path": "out.safetensors"},
        being_written,
    ),
    errors.Interrupted: Golden("inspect m.safetensors", 130, "interrupted", around=stopped),
}
#: Bases for others to catch, which nothing raises.
BASES = {errors.SiftError, errors.OutputError}


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_file({"weight": np.zeros((2, 3), np.float32)}, tmp_path / "m.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:-4])
    (tmp_path / "there.safetensors").write_text("precious")
    (tmp_path / "notes.txt").write_text("all is well")
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "custom_modules.py").write_text(CUSTOM)
    torch.save({"w": Bomb()}, tmp_path / "bomb.pt")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", GOLDEN, ids=lambda kind: kind.__name__)
def test_the_message(sift: Sift, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: type[SiftError]) -> None:
    golden = GOLDEN[kind]
    with golden.around(monkeypatch) if golden.around else contextlib.nullcontext():
        before = sorted(os.listdir())
        arguments = shlex.split(golden.arguments)
        said = sift(*arguments)
        hint = f"hint: {golden.hint}\n" if golden.hint else ""
        assert said.stderr == f"error: {golden.message}\n{hint}"
        assert (said.exit_code, said.stdout) == (golden.code, "")
        document = sift(*arguments, "--json")
        assert document.stderr == said.stderr
        assert document.exit_code == golden.code
        assert json.loads(document.stdout) == {
            "schema": "sift.error/1",
            "error": kind.__name__,
            "message": golden.message,
            "hint": golden.hint,
            "exit_code": golden.code,
            "fields": golden.fields,
        }
        assert {name for name in os.listdir() if name != "__pycache__"} == set(before)


def classes(base: type[SiftError]) -> set[type[SiftError]]:
    return {base}.union(*(classes(sub) for sub in base.__subclasses__()))


def test_every_class_has_a_golden() -> None:
    for file in (ROOT / "sift_cli").rglob("*.py"):  # where one would be defined out of sight
        assert file.name == "errors.py" or not re.search(r"^ *class \w+\(\w*Error\):", file.read_text(), re.MULTILINE)
    named = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, SiftError)}
    assert named == classes(SiftError)
    assert named == GOLDEN.keys() | BASES


def test_bases_are_not_raised() -> None:
    names = {cls.__name__ for cls in BASES}
    made = {
        node.func.id
        for file in (ROOT / "sift_cli").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "UnsafePickle" in made
    assert not made & names


def test_the_tree_in_the_docstring() -> None:
    """Names in the order of the classes, each under its base, with the exit codes that are not their base's."""
    tree = [line for line in (errors.__doc__ or "").splitlines() if re.match(r"    [A-Z│├└ ]+", line)]

    def lines(cls: type[SiftError], depth: int = 0) -> Iterator[tuple[int, str, int | None]]:
        own = "exit_code" in vars(cls)
        yield depth, cls.__name__, cls.exit_code if own else None
        for sub in cls.__subclasses__():
            yield from lines(sub, depth + 1)

    drawn = []
    for line in tree:
        found = re.match(r" {4}([│├└─ ]*)(\w+)(?: +(\d+))?\b", line)
        assert found is not None
        drawn.append((len(found[1]) // 3, found[2], int(found[3]) if found[3] else None))
    assert drawn == list(lines(SiftError))


def test_the_quickstart_lists_every_exit_code() -> None:
    text = (ROOT / "docs" / "quickstart.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    rows = {int(code): row for code, row in re.findall(r"^\| (\d+) \| (.*)$", text, re.MULTILINE)}
    raised = classes(SiftError) - {SiftError}
    assert {0, 1, 141, *(cls.exit_code for cls in raised)} == set(rows)
    for cls in raised:
        if "exit_code" in vars(cls):
            assert f"`{cls.__name__}`" in rows[cls.exit_code]
    for code, meaning in {0: "held", 2: "configuration", 3: "could not be measured", 6: "broken"}.items():
        assert "sift check" in rows[code]
        assert meaning in rows[code]
