"""The kernels' own checks, with sanitizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
