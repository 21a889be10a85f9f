"""Importing a torchvision that does not import by itself, played by made-up packages in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

NEEDS_OPERATOR = """
from torchvision import half
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
ready = True
"""
COUNTS_IMPORTS = "import sys\nsys.imports = getattr(sys, 'imports', 0) + 1\n"


def run(tmp_path: Path, package: str, code: str) -> str:
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text(package)
    (folder / "half.py").write_text(COUNTS_IMPORTS)
    preamble = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from sift_cli.errors import SiftError\n"
        "from sift_cli.compat import import_torchvision\n"
    )
    arguments = [sys.executable, "-c", preamble + code, str(tmp_path), str(Path(__file__).parents[1])]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()


def test_missing_operators_are_declared_and_the_half_import_is_thrown_away(tmp_path: Path) -> None:
    code = (
        "module = import_torchvision()\n"
        "import gc; gc.collect()\n"
        "import torch\n"
        "print(module.ready, sys.imports, str(torch.ops.torchvision.nms.default._schema))\n"
        "print(import_torchvision() is module)\n"
    )
    schema = "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert run(tmp_path, NEEDS_OPERATOR, code) == f"True 2 {schema}\nTrue"


def test_a_healthy_torchvision_is_left_alone(tmp_path: Path) -> None:
    code = "import_torchvision()\nimport torch\nprint(sys.imports, hasattr(torch.ops.torchvision, 'nms'))"
    assert run(tmp_path, "from torchvision import half", code) == "1 False"


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("raise RuntimeError('another trouble')", "another trouble"),
        ("raise RuntimeError('operator torchvision::other does not exist')", "torchvision::other does not exist"),
        ("import no_such_package", "no_such_package"),
        ("raise ImportError('half a package')", "half a package"),
    ],
)
def test_other_failures_are_told(tmp_path: Path, package: str, message: str) -> None:
    code = "try: import_torchvision()\nexcept SiftError as error: print(type(error).__name__, error)"
    said = run(tmp_path, package, code)
    assert said.startswith("ModelError torchvision is installed but does not import: ")
    assert message in said
