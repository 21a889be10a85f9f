"""Every pattern of a pruned layer: onnxruntime computes the same of the source and of the result, with and without
sift's library, and the masks in the result are the zeros of the source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from graphs import attributes, graph, normal, run, sparse
from onnx import numpy_helper

from sift_cli.export.pruned import sparsified
from sift_cli.export.pruned.source import read
from sift_cli.runtime import decode_bitmask

IMAGES = "(float[N, 4, H, W] x) => (float[N, 6, P, Q] y)"
SIZED = "(float[N, 4, 7, 9] x) => (float[N, 6, P, Q] y)"
SOUND = "(float[N, 4, L] x) => (float[N, 6, P] y)"
ROWS = "(float[N, 7] x) => (float[N, 9] y)"

K, K1, W = sparse(6, 4, 3, 3), sparse(6, 4, 5), sparse(9, 7)
B6, B9, WT = normal(6), normal(9), np.ascontiguousarray(W.T)


def norm(channels: int) -> dict[str, np.ndarray]:
    """Weights of ``BatchNormalization (…, ga, be, me, va)``."""
    return {name: np.abs(normal(channels, seed=seed)) for seed, name in enumerate(("ga", "be", "me", "va"))}


class Case(NamedTuple):
    """A graph whose weight ``w`` is pruned.

    Attributes:
        signature, body: Its text.
        weights: Its initializers.
        x: Shape of an example.
        kernel: What the sparse operator has to have for its weight, before anything is folded into it.
        dense: The standard operators that are left.
    """

    signature: str
    body: str
    weights: Mapping[str, np.ndarray]
    x: tuple[int, ...]
    kernel: np.ndarray
    dense: tuple[str, ...] = ()
    opset: int = 13


def images(body: str, *dense: str, w: np.ndarray = K, signature: str = IMAGES, **weights: np.ndarray) -> Case:
    return Case(signature, body, {"w": w, "b": B6, **weights}, (2, 4, 7, 9), w, dense)


def sound(body: str, *dense: str, w: np.ndarray = K1, opset: int = 13, **weights: np.ndarray) -> Case:
    left = ("Squeeze", "Unsqueeze", *dense)
    return Case(SOUND, body, {"w": w, "b": B6, **weights}, (2, 4, 23), w[:, :, None], left, opset)


def rows(body: str, *dense: str, w: np.ndarray = W, **weights: np.ndarray) -> Case:
    return Case(ROWS, body, {"w": w, **weights}, (3, 7), W, dense)


CASES = {
    "conv": images("y = Conv (x, w, b)"),
    "conv without bias": images("y = Conv (x, w)"),
    "conv, its window": images("y = Conv <strides = [2, 1], dilations = [1, 2], pads = [1, 2, 0, 3]> (x, w, b)"),
    "conv in groups": images("y = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w, b)", w=sparse(6, 2, 3, 3)),
    "conv, valid": images('y = Conv <auto_pad = "VALID", strides = [2, 2]> (x, w, b)'),
    "conv, same at any size": images('y = Conv <auto_pad = "SAME_UPPER", kernel_shape = [3, 3]> (x, w, b)'),
    "conv, same upper": images('y = Conv <auto_pad = "SAME_UPPER", strides = [2, 3]> (x, w, b)', signature=SIZED),
    "conv, same lower": images(
        'y = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, w, b)', signature=SIZED
    ),
    "conv, same and even": images('y = Conv <auto_pad = "SAME_LOWER"> (x, w, b)', w=sparse(6, 4, 2, 4)),
    "conv, same at an inferred size": images(
        'z = MaxPool <kernel_shape = [2, 2]> (x) y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (z, w, b)',
        "MaxPool", signature=SIZED,
    ),
    "sound": sound("y = Conv <strides = [2], pads = [3, 1], dilations = [2]> (x, w, b)"),
    "sound, opset 12": sound('y = Conv <auto_pad = "SAME_LOWER"> (x, w, b)', w=sparse(6, 4, 4), opset=12),
    "sound, norm": sound("c = Conv (x, w, b) y = BatchNormalization (c, ga, be, me, va)", **norm(6)),
    "norm": images("c = Conv (x, w, b) y = BatchNormalization <epsilon = 0.01> (c, ga, be, me, va)", **norm(6)),
    "norm of what is read twice": images(
        "c = Conv (x, w, b) d = BatchNormalization (c, ga, be, me, va) y = Mul (c, d)",
        "BatchNormalization", "Mul", **norm(6),
    ),
    "norm of an output": images(
        "c = Conv (x, w, b) y = BatchNormalization (c, ga, be, me, va)", "BatchNormalization",
        signature="(float[N, 4, H, W] x) => (float[N, 6, P, Q] y, float[N, 6, P, Q] c)", **norm(6),
    ),
    "norm in training": images(
        "c = Conv (x, w, b) y, m, v = BatchNormalization <training_mode = 1> (c, ga, be, me, va)",
        "BatchNormalization", **norm(6),
    )._replace(opset=14),
    "a run of steps": images(
        "c = Conv (x, w) d = Add (s, c) e = Mul (d, t) f = Sub (e, u) y = BatchNormalization (f, ga, be, me, va)",
        s=normal(6, 1, 1), t=normal(1, 6, 1, 1), u=np.float32([0.25]), **norm(6),
    ),
    "a scale of 0": images("c = Conv (x, w, b) y = Mul (c, s)", s=np.float32([0, 1, 0, -2, 3, 1]).reshape(6, 1, 1)),
    "a scale along the width": images("c = Conv (x, w, b) y = Mul (c, s)", "Mul", s=normal(7)),
    "subtracted from a constant": images("c = Conv (x, w, b) y = Sub (s, c)", "Sub", s=normal(6, 1, 1)),
    "multiplied by itself": images("c = Conv (x, w, b) y = Mul (c, c)", "Mul"),
    "dropout": images(
        "c = Conv (x, w, b) d = Dropout (c, p) e = Identity (d) y = Mul (e, s)", p=np.float32(0.5), s=normal(6, 1, 1)
    ),
    "gemm": rows("y = Gemm <transB = 1> (x, w, b)", b=B9),
    "gemm, inputs first": rows("y = Gemm (x, w)", w=WT),
    "gemm, scaled": rows("y = Gemm <transB = 1, alpha = 0.5, beta = 3.0> (x, w, b)", b=B9.reshape(1, 9)),
    "gemm, one number": rows("y = Gemm <transB = 1, beta = 2.0> (x, w, b)", b=np.float32(2.5)),
    "gemm, one number of rank 2": rows("y = Gemm <transB = 1> (x, w, b)", b=np.float32([[2.5]])),
    "gemm, a number a row": rows("y = Gemm <transB = 1> (x, w, b)", "Add", b=normal(3, 1)),
    "gemm, a number a row, as many as columns": rows(
        "y = Gemm <transB = 1> (x, w, b)", "Add", b=normal(9, 1)
    )._replace(x=(9, 7)),
    "gemm, a number each": rows("y = Gemm <transB = 1> (x, w, b)", "Add", b=normal(3, 9)),
    "gemm, a sum that varies": rows("b = ReduceSum (x) y = Gemm <transB = 1> (x, w, b)", "Add", "ReduceSum"),
    "gemm, norm": rows("c = Gemm <transB = 1> (x, w) y = BatchNormalization (c, ga, be, me, va)", **norm(9)),
    "matmul": rows("y = MatMul (x, w)", w=WT),
    "matmul, bias": rows("c = MatMul (x, w) y = Add (b, c)", w=WT, b=B9),
    "matmul, sequences": rows("c = MatMul (x, w) y = Add (c, b)", w=WT, b=B9)._replace(
        signature="(float[N, L, 2, 7] x) => (float[N, L, 2, 9] y)", x=(2, 3, 2, 7)
    ),
    "matmul, a vector": rows("y = MatMul (x, w)", w=WT)._replace(signature="(float[7] x) => (float[9] y)", x=(7,)),
    "matmul, more axes": rows("c = MatMul (x, w) y = Mul (c, s)", "Mul", w=WT, s=B9.reshape(1, 1, 9))._replace(
        signature="(float[N, 7] x) => (float[1, N, 9] y)"
    ),
    "matmul, norm over tokens": rows(
        "c = MatMul (x, w) y = BatchNormalization (c, ga, be, me, va)", "BatchNormalization", w=WT, **norm(9)
    )._replace(signature="(float[N, 9, 7] x) => (float[N, 9, 9] y)", x=(2, 9, 7)),
    "behind a transpose": rows("v = Transpose (w) y = MatMul (x, v)"),
    "behind what arranges it": rows(
        "v = Identity (w) u = Reshape (v, s) t = Unsqueeze (u, a) r = Squeeze (t, a) q = Cast <to = 1> (r)"
        " y = MatMul (x, q)",
        w=WT.reshape(3, 21).astype(np.float16), s=np.array([7, -1]), a=np.array([1]),
    )._replace(kernel=W.astype(np.float16).astype(np.float32)),
    "a Constant": Case(
        "(float[N, 2] x) => (float[N, 3] y)",
        "w = Constant <value = float[2, 3] {1.5, 0, 0, -2, 0, 0}> () y = MatMul (x, w)",
        {}, (4, 2), np.float32([[1.5, -2], [0, 0], [0, 0]]),
    ),
    "as tf2onnx writes it": Case(
        "(float[N, 8, 9, 4] x) => (float[N, P, Q, 6] y)",
        't = Transpose <perm = [0, 3, 1, 2]> (x) v = Transpose <perm = [3, 2, 0, 1]> (w)'
        ' c = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (t, v) d = Add (c, b) r = Relu (d)'
        ' y = Transpose <perm = [0, 2, 3, 1]> (r)',
        {"w": np.ascontiguousarray(K.transpose(2, 3, 1, 0)), "b": normal(1, 6, 1, 1)}, (2, 8, 9, 4), K,
        ("Transpose", "Transpose"),
    ),
    "all zeros": rows("y = MatMul (x, w)", w=np.zeros_like(WT))._replace(kernel=np.zeros_like(W)),
}  # fmt: skip


def converted(model: onnx.ModelProto, folder: Path, least: float = 0.3) -> onnx.ModelProto:
    path = folder / "pruned.onnx"
    onnx.save(model, path)
    return sparsified(read(path), path, least=least)[0]


def same(got: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return all(
        a.shape == b.shape and np.abs(a - b).max() <= 1e-5 * max(1, np.abs(b).max())
        for a, b in zip(got, wanted, strict=True)
    )


@pytest.mark.parametrize("name", CASES)
def test_a_pattern(name: str, tmp_path: Path, library: str | None) -> None:
    case = CASES[name]
    source = graph(f"{case.signature} {{ {case.body} }}", case.weights, opset=case.opset)
    result = converted(source, tmp_path, least=0.0)
    nodes = list(result.graph.node)
    (layer,) = [node for node in nodes if node.domain == "sift"]
    assert sorted(node.op_type for node in nodes if node.domain != "sift") == sorted(case.dense)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    kept = decode_bitmask(stored["w.bitmask"], stored["w.values"], attributes(layer)["weight_shape"])[1]
    assert np.array_equal(kept, case.kernel != 0)
    feed = {"x": normal(*case.x, seed=7)}
    wanted = run(source, feed, optimized=False)
    assert same(run(result, feed), wanted)
    if library is not None:
        assert same(run(result, feed, library), wanted)
