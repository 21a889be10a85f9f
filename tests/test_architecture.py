"""Who may import whom, read from the source. The map is in docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sift_cli

ROOT = Path(sift_cli.__file__).parent
#: From the outside in. A layer may import itself and what comes later.
LAYERS: list[set[str]] = [
    {"app"},
    {"commands"},
    {"api"},
    {"budgets", "conversion"},
    {"verify"},
    {"export", "runtime", "training"},
    {"transforms", "analysis"},
    {"surgery", "flops"},
    {"widths"},
    {"models"},
    {"checkpoint"},
    {"sparsity", "layers"},
    {"core", "compat"},
    {"errors", "registry"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(ROOT.rglob("*.py"))


def package_of(module: str) -> str | None:
    """``sift_cli.flops.handles.x`` → ``flops``; None for the package itself and for anything that is not sift's."""
    parts = module.split(".")
    return parts[1] if parts[0] == "sift_cli" and len(parts) > 1 else None


def imports(source: str, *, run_time_only: bool = False) -> set[str]:
    """Absolute modules a source imports; ``from sift_cli import api`` counts as ``sift_cli.api``."""
    found: set[str] = set()
    tree = ast.parse(source)
    typing_only = {
        inner
        for node in ast.walk(tree)
        if run_time_only and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{a.name}" for a in node.names} if node.module == "sift_cli" else {node.module}
    return found


def violations(package: str, source: str) -> list[str]:
    return [
        module
        for module in imports(source, run_time_only=True)
        if (target := package_of(module)) in RANK and target != package and RANK[target] <= RANK[package]
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_inwards(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if package == "__init__":
        return  # the public surface names things of all layers, lazily
    assert package in RANK, f"{package} has no place in the layers"
    assert not violations(package, file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_terminal_is_for_app_and_commands(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0].removesuffix(".py")
    terminal = {module for module in imports(file.read_text()) if module.split(".")[0] in ("typer", "rich", "click")}
    assert package in ("app", "commands") or not terminal
    assert "click" not in {module.split(".")[0] for module in terminal}


def test_the_rule_can_fail() -> None:
    assert violations("core", "from sift_cli.models import load") == ["sift_cli.models"]
    assert violations("export", "from sift_cli import runtime") == ["sift_cli.runtime"]
    assert violations("models", "from sift_cli.core.plan import Architecture") == []


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import sift_cli.app", {"torch", "onnx", "onnxruntime", "rich.table", "numpy"}),
        ("import sift_cli, sift_cli.core.plan, sift_cli.core.masks", {"torch", "onnx", "onnxruntime"}),
        ("import sift_cli.checkpoint, sift_cli.checkpoint.report, sift_cli.models", {"torch", "onnx", "onnxruntime"}),
    ],
)
def test_what_is_not_needed_is_not_imported(code: str, absent: set[str]) -> None:
    check = f"{code}; import sys; print(*sorted(set({sorted(absent)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_public_surface() -> None:
    assert dir(sift_cli) == sorted(sift_cli.__all__)
    for name in sift_cli.__all__:
        assert getattr(sift_cli, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'sparsfy'"):
        sift_cli.sparsfy  # noqa: B018
