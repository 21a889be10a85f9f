"""A small sparse layer with an epilogue: as a model of one node, and what it computes by its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import TensorProto, helper, numpy_helper

from sift_cli import runtime
from sift_cli.export import fallback

#: Activations by the end of an operator's name, with the attributes they get here.
ACTIVATIONS: dict[str, dict[str, float]] = {
    "": {},
    "Relu": {},
    "Clip": {"min": -0.5, "max": 1.25},
    "LeakyRelu": {"alpha": 0.125},
    "Silu": {},
    "Gelu": {},
    "GeluTanh": {},
}
NAMES = [f"Sparse{layer}{adds}{end}" for layer in ("Conv", "Linear") for adds in ("", "Add") for end in ACTIVATIONS]
WINDOW = {"strides": (1, 2), "pads": (1, 1, 0, 1), "dilations": (1, 1), "group": 2}
_EPS = float(np.finfo(np.float32).eps)


class Layer:
    """The operator ``name`` with random weights, half of them kept, stored as ``dtype``.

    Attributes:
        inputs: What a model of it is fed: X, and a residual where it adds one.
        parts: Its constants: bitmask, values, bias.
        shape: What its output has.
    """

    def __init__(self, name: str, *, seed: int = 0, dtype: DTypeLike = np.float32) -> None:
        rng = np.random.default_rng(seed)
        self.name, self.is_conv, self.adds = name, "Conv" in name, "Add" in name
        self.activation = name.removeprefix("SparseConv").removeprefix("SparseLinear").removeprefix("Add")
        shape, x, self.shape = (
            ((6, 2, 3, 2), (2, 4, 5, 8), (2, 6, 4, 5)) if self.is_conv else ((6, 9), (2, 3, 9), (2, 3, 6))
        )
        self.kept = rng.random(shape) < 0.5
        weight = (rng.standard_normal(shape) * self.kept).astype(np.float32).astype(dtype)
        self.weight = weight.astype(np.float32)
        self.parts = {
            "bitmask": np.packbits(self.kept.reshape(-1), bitorder="little"),
            "values": weight[self.kept],
            "bias": rng.standard_normal(6).astype(np.float32),
        }
        self.inputs = {"X": rng.standard_normal(x).astype(np.float32)}
        if self.adds:
            self.inputs["residual"] = (3 * rng.standard_normal(self.shape)).astype(np.float32)

    @classmethod
    def of_nothing(cls, activation: str, x: np.ndarray) -> Layer:
        """A linear layer without weights and bias, which does to its residual ``x``, ``[..., 6]``, what the activation
        does."""
        layer = cls(f"SparseLinearAdd{activation}")
        layer.shape = x.shape
        layer.kept[:] = False
        layer.weight[:] = 0
        layer.parts = {
            "bitmask": np.zeros(7, np.uint8),
            "values": np.empty(0, np.float32),
            "bias": np.zeros(6, np.float32),
        }
        layer.inputs = {"X": np.zeros((*x.shape[:-1], 9), np.float32), "residual": x}
        return layer

    def model(self, opset: int = 20, *, bias: bool = True) -> bytes:
        """One node, with its function; without ``bias`` that input is left out."""
        attributes: dict[str, Any] = {"weight_shape": self.weight.shape, **(WINDOW if self.is_conv else {})}
        attributes |= ACTIVATIONS[self.activation]
        given = ["X", "bitmask", "values", "bias" if bias else "", *["residual"] * self.adds]
        node = helper.make_node(self.name, given, ["Y"], domain="sift", name="layer", **attributes)
        graph = helper.make_graph(
            [node],
            "one_node",
            [_value(key, array.ndim) for key, array in self.inputs.items()],
            [_value("Y", len(self.shape))],
            [numpy_helper.from_array(array, key) for key, array in self.parts.items() if bias or key != "bias"],
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("sift", 1)]
        functions = fallback.functions({self.name}, opset)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())

    def check(self, got: np.ndarray, *, bias: bool = True) -> None:
        """Fails unless ``got`` is what the operator makes of :attr:`inputs`.

        Infinities and NaN have to be where they are by definition, and what an activation makes of them exact. All else
        may be off by the rounding of float32: an ulp of all magnitudes for each kept weight and what else is added up,
        and a few for the activation, whose slope is 1.13 at the most.
        """
        row = self.parts["bias"] if bias else np.zeros(6, np.float32)
        sums = self._layer(self.inputs["X"], self.weight, row)
        want = runtime.epilogue(sums, self.activation, self.inputs.get("residual"), **ACTIVATIONS[self.activation])
        with np.errstate(invalid="ignore"):
            size = self._layer(*(np.abs(array) for array in (self.inputs["X"], self.weight, row)))
            size += np.abs(self.inputs.get("residual", 0.0))
        assert got.dtype == np.float32
        assert got.shape == want.shape
        ordinary = np.isfinite(size)
        np.testing.assert_array_equal(got[~ordinary], want[~ordinary])
        terms = self.kept.reshape(6, -1).sum(1).max() + (2 if self.kept.any() else 0)
        assert (np.abs(got[ordinary] - want[ordinary]) <= (1.13 * terms + 4) * _EPS * size[ordinary]).all()

    def _layer(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        if self.is_conv:
            return runtime.sparse_conv(x, weight, self.kept, bias, **WINDOW)
        return runtime.sparse_linear(x, weight, self.kept, bias)


def _value(name: str, axes: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * axes)
