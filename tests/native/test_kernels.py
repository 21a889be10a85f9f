"""The kernels' own checks, with sanitizers, and for ARM where there is a compiler and an emulator."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]
Build = Callable[..., Path]

SANITIZE = ("-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DSIFT_SANITIZE=address,undefined")


def test_every_kernel_agrees_with_the_naive_loop_under_the_sanitizers(build: Build, run: Run) -> None:
    printed = run(build("check_kernels", *SANITIZE))
    assert printed.endswith("\n0 failures\n")
    for kernel in ("conv_patches/portable", "linear_panels/portable"):
        assert f"{kernel}: " in printed


def test_activations_are_as_exact_as_they_claim_under_the_sanitizers(build: Build, run: Run) -> None:
    printed = run(build("check_activations", *SANITIZE), 16001)
    assert printed.endswith("\n0 failures\n")
    assert "linear_panels/portable: " in printed


def test_stored_ways_say_refuse_and_ignore_what_they_should(build: Build, run: Run) -> None:
    assert run(build("check_ways", *SANITIZE)).endswith(": 0 failures\n")


def test_every_kernel_agrees_with_the_naive_loop_on_arm(build: Build, run: Run) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if not (compiler and emulator):
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64")
    target = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}")
    printed = run(emulator, build("check_kernels", *target, "-DCMAKE_EXE_LINKER_FLAGS=-static"))
    assert printed.endswith("\n0 failures\n")
    assert "linear_panels/portable: " in printed
