"""Building the native library's own checks from source."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"

Run = Callable[..., str]
Build = Callable[..., Path]


@pytest.fixture(scope="session")
def run() -> Run:
    """``run("cmake", "--version")`` → what it printed; it has to succeed."""

    def run(*command: object) -> str:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def build(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """``build("check_kernels", "-DSIFT_SANITIZE=thread")`` → the program. The same options share a folder."""
    if not (shutil.which("cmake") and (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++"))):
        pytest.skip("needs cmake and a C++ compiler")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    folders: dict[tuple[str, ...], Path] = {}

    def build(target: str, *options: str) -> Path:
        if options not in folders:
            folders[options] = tmp_path_factory.mktemp("native")
            run("cmake", "-S", NATIVE, "-B", folders[options], *generator, "-DSIFT_BUILD_TESTS=ON", *options)
        run("cmake", "--build", folders[options], "--target", target, "--parallel", os.cpu_count() or 1)
        return folders[options] / target

    return build
