"""Damaged models in onnxruntime, with a library that AddressSanitizer and UndefinedBehaviorSanitizer watch."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from attacks.nodes import Model, Node

from sift_cli.core.operators import MAX_POOL

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


NO_IMAGES = """
import resource, sys, numpy
from sift_cli.runtime import session
x = numpy.zeros(64, numpy.float32)
header, (lanes, high, wide) = x.view(numpy.int64), map(int, sys.argv[2:])
header[:7] = int.from_bytes(b"arranged", "little"), lanes, 4, 0, 0, high, wide
header[15:17] = 1
opened, before = session(sys.argv[1]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(*opened.run(None, {"X": x})[0].shape, end=" ")
    print("small" if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16 else "large")
except Exception as error:
    print("X has shape [64]" in str(error) and "refused")
"""


def test_no_images_of_any_size_are_pooled_into_no_images(build: Build, run: Run, tmp_path: Path) -> None:
    """256 bytes that say they are arranged made a table of 6·10⁸ pixels: 3 GB, and a minute."""
    library = build("sift_ops", *SANITIZE).with_name("libsift_ops.so")
    settings = {**runpy.run_path(str(FUZZER))["sanitizers"](library), "SIFT_LIBRARY": library}
    where = {"kernel_shape": [1, 1], "strides": [1, 1], "arranged": [1, 1, 0, 0, 0, 0]}
    model = Model([Node(MAX_POOL, ["X"], "Y", where)], {}, [{"X": np.zeros(64, np.float32)}])
    (tmp_path / "m.onnx").write_bytes(model.to_onnx())
    command = ("env", *(f"{key}={value}" for key, value in settings.items()), sys.executable, "-c", NO_IMAGES)
    widths = (4, 8, 16)  # of vectors, one of them this processor's
    ends = [run(*command, tmp_path / "m.onnx", lanes, 2**13, 2**12) for lanes in widths]
    assert sorted(ends) == ["0 0 8192 4096 small\n", "refused\n", "refused\n"]


def test_bytes_that_are_weights_shapes_and_plans_or_none(build: Build, run: Run) -> None:
    assert run(build("fuzz_formats", *SANITIZE), 1, 1000) == "1000 inputs, 0 failures\n"
