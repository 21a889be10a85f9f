"""Damaged models in onnxruntime, with a library that AddressSanitizer and UndefinedBehaviorSanitizer watch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., str]
Build = Callable[..., Path]

FUZZER = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz" / "native.py"
SANITIZE = ("-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DSIFT_SANITIZE=address,undefined")


def test_damaged_models_are_refused_or_mean_what_they_say_under_the_sanitizers(build: Build, run: Run) -> None:
    library = build("sift_ops", *SANITIZE).with_name("libsift_ops.so")
    printed = run(sys.executable, FUZZER, "--library", library, "--models", 600, "--jobs", 1)
    assert printed.startswith("600 models in ")
    assert printed.endswith("\n0 findings\n")
    for ending in ("computed", "refused", "refused at run"):
        assert int(re.search(rf"(\d+) {ending}\n", printed)[1]) > 50


def test_bytes_that_are_weights_shapes_and_plans_or_none(build: Build, run: Run) -> None:
    assert run(build("fuzz_formats", *SANITIZE), 1, 1000) == "1000 inputs, 0 failures\n"
