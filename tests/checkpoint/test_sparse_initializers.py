"""ONNX's sparse initializers: what sift reads is what onnxruntime computes with."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.report import inspect

KEPT = {(0, 1, 0): 1.5, (0, 2, 3): 0.0, (1, 0, 0): -0.0, (1, 2, 2): -7.0}
SHAPE = (2, 3, 4)
DENSE = np.zeros(SHAPE, np.float32)
for at, number in KEPT.items():
    DENSE[at] = number


def model(indices: np.ndarray, values: np.ndarray | None = None) -> onnx.ModelProto:
    """y = x + w with the sparse initializer w."""
    values = np.array(list(KEPT.values()), np.float32) if values is None else values
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values, "w"), numpy_helper.from_array(indices, "w_indices"), list(SHAPE)
    )
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, SHAPE)],
        [helper.make_tensor_value_info("y", kind, SHAPE)],
        sparse_initializer=[sparse],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FORMS = {
    "positions": np.array([np.ravel_multi_index(at, SHAPE) for at in KEPT]),
    "coordinates": np.array(list(KEPT)),
    "positions of 8 bits": np.array([4, 11, 12, 22], np.int8),
    "positions of 32 bits": np.array([4, 11, 12, 22], np.int32),
}


@pytest.mark.parametrize("form", FORMS)
def test_both_forms(form, tmp_path):
    proto = model(FORMS[form])
    if FORMS[form].dtype == np.int64:
        onnx.checker.check_model(proto)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (computed,) = session.run(None, {"x": np.zeros(SHAPE, np.float32)})
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        spec = checkpoint.tensors["w"]
        assert (spec.shape, spec.dtype, spec.format, spec.nonzero) == (SHAPE, "F32", "coo", 4)
        assert spec.stored_bytes == 4 * 4 + FORMS[form].nbytes
        assert checkpoint.read("w").tobytes() == DENSE.tobytes()
        assert np.array_equal(checkpoint.read("w"), computed)
        assert np.argwhere(checkpoint.mask("w").to_bool()).tolist() == [list(at) for at in KEPT]
    assert inspect(tmp_path / "m.onnx").sparsity == 20 / 24


def test_order_does_not_matter(tmp_path):
    order = [2, 0, 3, 1]
    values = np.array(list(KEPT.values()), np.float32)[order]
    (tmp_path / "m.onnx").write_bytes(model(FORMS["positions"][order], values).SerializeToString())
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        assert checkpoint.read("w").tobytes() == DENSE.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.int64], ids=str)
def test_dtypes(dtype, tmp_path):
    values = np.array([1, 2, 0, -4], dtype)
    (tmp_path / "m.onnx").write_bytes(model(FORMS["coordinates"], values).SerializeToString())
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        assert checkpoint.read("w").dtype == dtype
        assert checkpoint.read("w").reshape(-1)[FORMS["positions"]].tolist() == values.tolist()


def test_values_outside_of_the_file(tmp_path):
    proto = model(FORMS["positions"])
    values = proto.graph.sparse_initializer[0].values
    (tmp_path / "w.bin").write_bytes(values.raw_data)
    values.ClearField("raw_data")
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="w.bin")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        assert checkpoint.read("w").tobytes() == DENSE.tobytes()
    (tmp_path / "w.bin").unlink()
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        assert checkpoint.mask("w").nonzero == 4  # which needs no values
