"""Many threads in one kernel, one pool of buffers and one op, under ThreadSanitizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Run = Callable[..., str]
Build = Callable[..., Path]


def test_threads_share_everything_without_a_race(build: Build, run: Run) -> None:
    program = build("check_threads", "-DCMAKE_BUILD_TYPE=Debug", "-DSIFT_SANITIZE=thread")
    assert run(program) == "0 failures\n"
