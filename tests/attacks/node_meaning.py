"""What a model of ``nodes.py`` has to do, by ``docs/runtime.md`` alone: be refused, or compute this, within rounding.

Numbers are numpy's, in double precision, each with how far float sums of so many terms may be from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from attacks.nodes import Model, Node

from sift_cli.core.operators import ACTIVATIONS, Operator
from sift_cli.runtime import decode_bitmask, epilogue, max_pool, sparse_conv, sparse_linear

EPS = float(np.finfo(np.float32).eps)
TINY = 1e-36  # what a sum loses where its terms have no float any more
MOST = 2**31 - 1
#: Bytes of an image, spread over the lanes with what is around it. From the one on it is too much for a test, from the
#: other on the library has to refuse it, or onnxruntime to have no memory for it.
HEAVY, IMPOSSIBLE = 2**27, 2**35


class Refused(Exception):
    """It has to be refused."""


class Unsaid(Exception):
    """Nothing is promised but that it does not break anything."""


class TooHeavy(Exception):
    """It may be right, and take gigabytes."""


@dataclass
class Numbers:
    """Attributes:
    value: float64.
    off: How far a float may be from it.
    arranged: By which kind of layer, "" where it is as it is.
    """

    value: np.ndarray
    off: np.ndarray
    arranged: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape


def lenient(model: Model) -> bool:
    """Whether a refusal is always right: of arranged tensors the library may refuse whatever it cannot use."""
    return any(node.attributes.get("arranged") is not None for node in model.nodes)


def check_nodes(model: Model) -> None:
    """Raise :class:`Refused` where no session may be created."""
    arrays = {**model.constants, **model.feeds[0]}
    fixed = model.constants.keys() - model.open
    made: set[str] = set()
    for node in model.nodes:
        x = arrays.get(node.inputs[0]) if node.between and node.inputs else None
        if x is not None and x.dtype != np.float32:
            raise Refused("X is not float32")
        _check_node(node, arrays, fixed, made)
        made.add(node.output)
    if any(array.dtype.kind in "cOU" for array in arrays.values()):
        raise Unsaid("types that nobody reads")


def _check_node(node: Node, arrays: Mapping[str, np.ndarray], fixed: set[str], made: set[str]) -> None:
    operator = node.operator
    if len(node.inputs) not in ((1,) if operator is None else (5,) if operator.adds else (3, 4)):
        raise Refused("number of inputs")
    x, bitmask, values, bias, residual = (*node.inputs, *[""] * 4)[:5]
    floats = [x, *([residual] if operator and operator.adds else []), *([bias] if bias else [])]
    for key in floats:
        if not key or (key not in made and arrays[key].dtype != np.float32):
            raise Refused(f"{key} is not float32")
    if operator is None:
        _pooling(node)
        return
    for key in (bitmask, values, *([bias] if bias else [])):
        if key not in fixed:
            raise Refused(f"{key} is not constant")
    shape = _window(node)
    if arrays[values].dtype.name not in ("float32", "float16", "bfloat16"):
        raise Refused("values' type")
    if math.prod(shape) > 2**24 or math.prod(shape) > 8 * arrays[bitmask].size:
        raise Refused("bitmask is too short")
    try:
        decode_bitmask(arrays[bitmask], arrays[values], shape)
    except ValueError as why:
        raise Refused(str(why)) from None
    if bias and arrays[bias].shape != shape[:1]:
        raise Refused("bias")
    for key in ACTIVATIONS[operator.activation].attributes:
        value = node.attributes.get(key)
        if not isinstance(value, float) or math.isnan(value):
            raise Refused(key)
    plan = node.attributes.get("plan")
    if isinstance(plan, bytes):
        raise Refused("plan")
    if isinstance(plan, str):
        number = "[0-9]{1,9}"
        if not re.fullmatch(rf"[^ ]+ {number}(x{number})* [^ ]+( {number})*", plan):
            raise Refused("plan")


def _integers(node: Node, key: str, count: int, least: int) -> tuple[int, ...]:
    numbers = node.attributes.get(key)
    if not isinstance(numbers, (list, tuple)) or len(numbers) != count or not all(isinstance(n, int) for n in numbers):
        raise Refused(key)
    if not all(least <= number <= MOST for number in numbers):
        raise Refused(key)
    return tuple(numbers)


def _window(node: Node) -> tuple[int, ...]:
    """The weight's shape; the other attributes are checked with it."""
    if node.layer == "Linear":
        return _integers(node, "weight_shape", 2, 1)
    shape = _integers(node, "weight_shape", 4, 1)
    for key, count, least in (("strides", 2, 1), ("dilations", 2, 1), ("pads", 4, 0)):
        _integers(node, key, count, least)
    group = node.attributes.get("group")
    if not isinstance(group, int) or not 1 <= group <= MOST or shape[0] % group or shape[1] * group > MOST:
        raise Refused("group")
    return shape


def _pooling(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The kernel and the strides."""
    return _integers(node, "kernel_shape", 2, 1), _integers(node, "strides", 2, 1)


def run(model: Model, feed: Mapping[str, np.ndarray]) -> Numbers:
    """What a model that ``check_nodes`` lets pass computes of ``feed``.

    Raises:
        Refused, Unsaid, TooHeavy: Nothing that could be said in numbers.
    """
    made: dict[str, Numbers] = {}
    arrays = {**model.constants, **feed}

    def numbers(key: str) -> Numbers:
        if key in made:
            return made[key]
        return Numbers(arrays[key].astype(np.float64), np.zeros(arrays[key].shape))

    for node in model.nodes:
        x = numbers(node.inputs[0])
        if node.between and (node.between != "Identity" and x.arranged):
            raise Unsaid("arranged numbers in an operator of ONNX")
        if node.between == "Neg":
            x = Numbers(-x.value, x.off)
        elif node.between == "Flatten":
            if not x.value.ndim or not x.value.size:
                raise Unsaid("Flatten has rules of its own")
            x = Numbers(x.value.reshape(len(x.value), -1), x.off.reshape(len(x.value), -1))
        residual = numbers(node.inputs[4]) if node.operator and node.operator.adds else None
        for read in (x, residual):
            if read is not None and read.arranged not in ("", node.layer):
                raise Unsaid("arranged by the other kind of layer")
        made[node.output] = _layer(node, node.operator, arrays, x, residual) if node.operator else _pool(node, x)
    if made[model.nodes[-1].output].arranged:
        raise Unsaid("arranged numbers")
    return made[model.nodes[-1].output]


def _arranged(node: Node) -> Sequence[int]:
    given = node.attributes.get("arranged")
    return given if isinstance(given, (list, tuple)) and len(given) > 1 else (0, 0)


def _pool(node: Node, x: Numbers) -> Numbers:
    (kernel, strides), arranged = _pooling(node), _arranged(node)
    if x.value.ndim != 4:
        raise Refused("X")
    _check_image(x.shape, x.shape[1], kernel, strides, arranged)
    # Where a tap is off, the largest is no further off than the one that is off most; nobody knows of one, nobody does.
    taps = np.lib.stride_tricks.sliding_window_view(x.off, kernel, (2, 3))[:, :, :: strides[0], :: strides[1]]
    return Numbers(max_pool(x.value, kernel, strides), taps.max((-2, -1)), node.layer if arranged[1] else "")


def _layer(
    node: Node, operator: Operator, arrays: Mapping[str, np.ndarray], x: Numbers, residual: Numbers | None
) -> Numbers:
    shape = _window(node)
    _, bitmask, values, bias_name, _ = (*node.inputs, "", "")[:5]
    weight, kept = decode_bitmask(arrays[bitmask], arrays[values], shape)
    weight = weight.astype(np.float64)
    bias = arrays[bias_name].astype(np.float64) if bias_name else None
    arranged = _arranged(node)
    layer: Any
    if operator.layer == "Linear":
        if not x.value.ndim or x.shape[-1] != shape[1]:
            raise Refused("X")
        layer = sparse_linear
    else:
        where = {key: node.attributes[key] for key in ("strides", "pads", "dilations", "group")}
        if x.value.ndim != 4 or x.shape[1] != shape[1] * where["group"]:
            raise Refused("X")
        dilated = [(size - 1) * step + 1 for size, step in zip(shape[2:], where["dilations"], strict=True)]
        _check_image(x.shape, shape[0], dilated, where["strides"], arranged, where["pads"])

        def layer(*of: Any) -> np.ndarray:
            return sparse_conv(*of, **where)

    with np.errstate(all="ignore"):
        sums = layer(x.value, weight, kept, bias)
        sizes = layer(np.abs(x.value), np.abs(weight), kept, None if bias is None else np.abs(bias))
        off = layer(x.off, np.abs(weight), kept)
        if residual is not None:
            if residual.shape != sums.shape:
                raise Refused("residual")
            sizes, off = sizes + np.abs(residual.value), off + residual.off
        off = off + (math.prod(shape[1:]) + 3) * EPS * sizes
        lost = (x.off > 0) & (np.abs(x.value) <= x.off)  # it may be 0, which times ∞ is NaN
        off = np.where(layer(lost.astype(np.float64), np.isinf(weight), kept) > 0, np.nan, off)
        given = {key: float(np.float32(node.attributes[key])) for key in ACTIVATIONS[operator.activation].attributes}
        y = epilogue(sums, operator.activation, None if residual is None else residual.value, **given)
        total = epilogue(sums, "", None if residual is None else residual.value)
        slope = max(1.2, abs(given.get("alpha", 0.0)))
        if math.isinf(slope):  # a sum near 0 goes either way, one below 0 is infinite
            slope, off = 1.2, np.where(np.abs(total) <= off + TINY, np.nan, off)
        rounding = 16 * EPS * np.where(np.isfinite(y), np.abs(y), 0) + TINY
        off = np.where(np.isinf(off), 0, slope * off) + rounding
    return Numbers(y, off, node.layer if arranged[1] else "")


def _check_image(
    x: Sequence[int],
    filters: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    arranged: Sequence[int],
    pads: Sequence[int] = (0,) * 4,
) -> None:
    padded = [x[2 + axis] + pads[axis] + pads[2 + axis] for axis in (0, 1)]
    out = [(padded[axis] - kernel[axis]) // strides[axis] + 1 for axis in (0, 1)]
    if min(out) < 1:
        raise Refused("smaller than the dilated kernel")
    halo = arranged[2:] if arranged[1] and len(arranged) == 6 else (0,) * 4
    if x[0] * filters * math.prod(out) * 4 > HEAVY:
        raise TooHeavy
    stored = (
        math.prod(padded) * (x[1] + 1),
        (out[0] + halo[0] + halo[2]) * (out[1] + halo[1] + halo[3]) * (filters + 1),
    )
    for area in stored:
        if area * 64 > HEAVY:
            raise Unsaid("too large") if area * 4 > IMPOSSIBLE else TooHeavy


def differ(got: np.ndarray, want: Numbers) -> str:
    """How ``got`` is not what was wanted; empty where it is."""
    if got.shape != want.shape or got.dtype != np.float32:
        return f"{got.dtype} {got.shape} where float32 {want.shape} is right"
    value, said = want.value, np.isfinite(want.off)
    with np.errstate(all="ignore"):
        close = (np.abs(got - value) <= want.off) | (got == value) | (np.isnan(got) & np.isnan(value))
        beyond = np.isfinite(value) & (np.abs(value) > 3e38)  # no float; infinite is right, too
    wrong = said & ~close & ~beyond
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    right = f"{value[at]} ± {want.off[at]:.2g}"
    return f"{wrong.sum()} of {got.size} numbers are wrong, at {at} {got[at]} where {right} is right"
