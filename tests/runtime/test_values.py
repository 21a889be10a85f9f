"""Values in half precision: each of the 65,536 that there are, as the kernels' two ways of reading them widen it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from epilogues import NAMES, Layer

from sift_cli.core.half import HALVES
from sift_cli.runtime import session, sparse_conv, sparse_linear

Node = Callable[..., bytes]
WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}


def every(dtype: str) -> np.ndarray:
    return np.arange(2**16).astype(np.uint16).view(HALVES[dtype])


def times_one(one_node: Node, op: str, values: np.ndarray, **options: Any) -> np.ndarray:
    """What a layer of one input and one weight an output makes of 1."""
    shape = (values.size, 1, 1, 1) if op == "SparseConv" else (values.size, 1)
    parts = {"bitmask": np.full(values.size // 8, 255, np.uint8), "values": values}
    model = one_node(op, parts, weight_shape=shape, **(WINDOW if op == "SparseConv" else {}))
    x = np.ones((1, *shape[1:]), np.float32)
    return session(model, **options).run(None, {"X": x})[0].reshape(-1)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("op", ["SparseConv", "SparseLinear"])
def test_every_value_is_the_number_that_it_is(one_node: Node, op: str, dtype: str) -> None:
    values = every(dtype)
    np.testing.assert_array_equal(times_one(one_node, op, values), values.astype(np.float32))


@pytest.mark.parametrize("op", ["SparseConv", "SparseLinear"])
def test_denormals_of_fp16_survive_where_those_of_float32_are_zero(one_node: Node, op: str) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    denormals = every("fp16")[:1024]
    np.testing.assert_array_equal(times_one(one_node, op, denormals, options=options), denormals.astype(np.float32))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", NAMES)
def test_an_operator_of_values_in_half_precision(library: str, name: str, dtype: str) -> None:
    layer = Layer(name, dtype=HALVES[dtype])
    layer.check(session(layer.model()).run(None, layer.inputs)[0])


def test_the_oldest_onnxruntime(library: str, oldest_onnxruntime: str, tmp_path: Path) -> None:
    layers = {f"{name}.{dtype}": Layer(name, dtype=HALVES[dtype]) for name in NAMES for dtype in HALVES}
    for file, layer in layers.items():
        (tmp_path / f"{file}.onnx").write_bytes(layer.model())
        np.savez(tmp_path / f"{file}.npz", **layer.inputs)
    code = (
        "import glob, numpy, onnxruntime, sys\n"
        "assert onnxruntime.__version__.startswith('1.17.'), onnxruntime.__version__\n"
        "for model in glob.glob('*.onnx'):\n"
        "    options = onnxruntime.SessionOptions()\n"
        "    options.register_custom_ops_library(sys.argv[1])\n"
        "    session = onnxruntime.InferenceSession(model, options)\n"
        "    numpy.save(model + '.npy', session.run(None, dict(numpy.load(model[:-4] + 'npz')))[0])\n"
    )
    subprocess.run([oldest_onnxruntime, "-c", code, library], cwd=tmp_path, check=True, timeout=120)
    for file, layer in layers.items():
        layer.check(np.load(tmp_path / f"{file}.onnx.npy"))


@pytest.mark.parametrize("dtype", HALVES)
def test_the_reference_reads_them_too(dtype: str) -> None:
    random = np.random.default_rng(0)
    kept = random.random((4, 3, 2, 2)) < 0.5
    weight = (random.standard_normal(kept.shape) * kept).astype(HALVES[dtype])
    x = random.standard_normal((1, 3, 4, 4))
    wide = weight.astype(np.float32)
    np.testing.assert_array_equal(sparse_conv(x, weight, kept), sparse_conv(x, wide, kept))
    rows, flat = x[0, 0], (slice(None), slice(None), 0, 0)
    np.testing.assert_array_equal(
        sparse_linear(rows[:, :3], weight[flat], kept[flat]), sparse_linear(rows[:, :3], wide[flat], kept[flat])
    )
