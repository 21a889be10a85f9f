"""The native library's own checks, built from source with sanitizers where there is a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"

pytestmark = pytest.mark.skipif(
    not (shutil.which("cmake") and (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++"))),
    reason="needs cmake and a C++ compiler",
)


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def build(folder: Path, target: str, *options: str) -> Path:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run("cmake", "-S", NATIVE, "-B", folder, *generator, "-DSIFT_BUILD_TESTS=ON", *options)
    run("cmake", "--build", folder, "--target", target, "--parallel", os.cpu_count() or 1)
    return folder / target


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where checks are built with sanitizers: in one folder, so that the kernels are compiled once."""
    return tmp_path_factory.mktemp("sanitized")


SANITIZE = ("-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DSIFT_SANITIZE=ON")


def test_every_kernel_agrees_with_the_naive_loop_under_the_sanitizers(sanitized: Path) -> None:
    printed = run(build(sanitized, "check_kernels", *SANITIZE))
    assert printed.endswith("\n0 failures\n")
    for kernel in ("conv_patches/portable", "linear_panels/portable"):
        assert f"{kernel}: " in printed


def test_activations_are_as_exact_as_they_claim_under_the_sanitizers(sanitized: Path) -> None:
    printed = run(build(sanitized, "check_activations", *SANITIZE), 16001)
    assert printed.endswith("\n0 failures\n")
    assert "linear_panels/portable: " in printed


def test_the_declared_slice_is_what_onnxruntimes_header_says(tmp_path: Path) -> None:
    header = os.environ.get("SIFT_ORT_HEADER")
    if not header:
        pytest.skip("SIFT_ORT_HEADER does not name onnxruntime_c_api.h")
    build(tmp_path, "check_ort_api", f"-DSIFT_ORT_HEADER={Path(header).resolve()}")
