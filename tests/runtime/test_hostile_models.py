"""Models that ask for more than there is: each a sentence, soon."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sift_cli import api
from sift_cli.errors import Malformed, ModelError
from sift_cli.runtime import library_path, session
from sift_cli.runtime.sessions import sentence

Node = Callable[..., bytes]

EIGHT = {"bitmask": np.array([0b1010_0001], np.uint8), "values": np.ones(3, np.float32)}  # three of 2 × 1 × 2 × 2
CONV: dict[str, Any] = {
    "weight_shape": (2, 1, 2, 2), "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1,
}  # fmt: skip
X = {"X": np.ones((1, 1, 4, 4), np.float32)}


def test_a_plan_of_any_bytes_is_quoted_in_part(one_node: Node) -> None:
    for plan, shown in (
        (b"\xff\n" + b"a" * 10**6, "'\\?\\?" + "a" * 78 + r"\.\.\.'"),
        ("a 1 k \u00e4", r"'\?\?' is no number"),
    ):
        with pytest.raises(Malformed, match=shown) as caught:
            session(one_node("SparseConv", EIGHT, **CONV, plan=plan))
        assert "node 'layer': attribute plan" in caught.value.message
        assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("op", "attributes"), [("Clip", {"min": 0.0, "max": np.nan}), ("LeakyRelu", {"alpha": np.nan})]
)
def test_a_parameter_that_is_no_number_is_refused(one_node: Node, op: str, attributes: dict[str, float]) -> None:
    with pytest.raises(Malformed, match="is missing or not a number"):
        session(one_node(f"SparseConv{op}", EIGHT, **CONV, **attributes))


def test_an_output_that_no_machine_holds_is_refused_by_its_shape(one_node: Node) -> None:
    opened = session(one_node("SparseConv", EIGHT, **CONV | {"pads": (0, 0, 2**31 - 1, 2**31 - 1)}))
    with pytest.raises(Exception, match=r"'layer' .*the output of shape \[1, 2, 2147483650, 2147483650\] is too large"):
        opened.run(None, X)


def test_a_halo_that_no_layer_needs_is_not_made(one_node: Node) -> None:
    """Made, it took seconds and gigabytes for an image of 16 pixels."""
    plain = session(one_node("SparseConv", EIGHT, **CONV)).run(None, X)[0]
    halo = session(one_node("SparseConv", EIGHT, **CONV, arranged=(0, 1, 2000, 2000, 1500, 1500))).run(None, X)[0]
    assert halo.tobytes() == plain.tobytes()


MANY_GROUPS = """
import resource, sys, numpy
from sift_cli.runtime import session
x = numpy.arange(200_000, dtype=numpy.float32).reshape(1, -1, 1, 1)
opened, before = session(sys.argv[1], threads=1), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y = opened.run(None, {"X": x})[0]
print((y == 3 * x).all(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_square_of_the_groups(one_node: Node, tmp_path: Path) -> None:
    """200,000 filters of one weight: 0.8 MB of them, and 900 MB to sort them by filter and block of channels."""
    channels = 200_000
    weights = {"bitmask": np.full(channels // 8, 255, np.uint8), "values": np.full(channels, 3, np.float32)}
    where = CONV | {"weight_shape": (channels, 1, 1, 1), "group": channels}
    (tmp_path / "m.onnx").write_bytes(one_node("SparseConv", weights, **where))
    done = subprocess.run(
        [sys.executable, "-c", MANY_GROUPS, tmp_path / "m.onnx"],
        capture_output=True, text=True, env={**os.environ, "SIFT_LIBRARY": library_path()},
    )  # fmt: skip
    assert not done.returncode, done.stderr
    right, kilobytes = done.stdout.split()
    assert right == "True"
    assert int(kilobytes) < 300_000


def test_a_long_name_takes_no_time() -> None:
    """It took the square of its length: 20 seconds for 400 KB."""
    began = time.process_time()
    for text in ("a" * 10**6, "a.cc:1 " * 10**5, "a(1" * 10**5):
        assert len(sentence(RuntimeError(text))) <= 2000
    assert time.process_time() - began < 2


def test_an_input_that_no_machine_holds_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["X"], ["Y"])],
        "huge",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, (2**20, 2**40))],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="no memory for input 'X' of shape"):
        api.run(tmp_path / "m.onnx")
