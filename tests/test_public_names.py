"""``sift_cli``'s own names, which packages of the same name must not take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_what_it_says_whatever_was_imported() -> None:
    code = """
import importlib, sys, types
import sift_cli
assert "torch" not in sys.modules
for package in ("analysis", "api", "export", "flops", "runtime", "surgery", "training", "transforms"):
    importlib.import_module(f"sift_cli.{package}")
for name in sift_cli.__all__:
    value = getattr(sift_cli, name)
    assert name == "__version__" or callable(value), name
    assert not isinstance(value, types.ModuleType), name
from sift_cli.export import fallback
from sift_cli import export
assert export is sift_cli.api.export and sift_cli.flops is sift_cli.api.flops
assert fallback.__name__ == "sift_cli.export.fallback"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
