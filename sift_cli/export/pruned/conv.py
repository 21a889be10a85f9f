"""Conv with a constant kernel of one or two axes → a layer. The one of one axis is one of two with height 1."""

from __future__ import annotations

import onnx_ir as ir

from sift_cli.export.pruned._layer import Layer, StaysDense, float32
from sift_cli.export.pruned.constants import constant


def layer(node: ir.Node, opset: int) -> Layer:
    """The layer that ``node`` is.

    Raises:
        StaysDense: Sift has no operator for it.
    """
    found = constant(node.inputs[1], opset)
    weight = float32(found.array if found else None)
    assert found is not None
    kept = found.kept
    axes = weight.ndim - 2
    if axes not in (1, 2):
        raise StaysDense(f"is a convolution over {axes} axes")
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        given = constant(node.inputs[2], opset)
        if given is None:
            raise StaysDense("has a bias that is not constant")
        bias = float32(given.array)
    ones, attributes = (1,) * axes, node.attributes
    strides = tuple(attributes.get_ints("strides", ones))
    dilations = tuple(attributes.get_ints("dilations", ones))
    pads = _pads(node, weight.shape[2:], strides)
    if min(pads) < 0:
        raise StaysDense("has negative pads")
    if axes == 1:
        weight, kept = weight[:, :, None], kept[:, :, None]
        strides, dilations, pads = (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    return Layer(
        "Conv", node, found.root, weight, kept, bias,
        {"strides": strides, "pads": pads, "dilations": dilations, "group": attributes.get_int("group", 1)},
        axes=(2,) if axes == 1 else (),
    )  # fmt: skip


def _pads(node: ir.Node, kernel: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Zeros before each axis, then behind each."""
    rule = node.attributes.get_string("auto_pad", "NOTSET")
    if rule in ("NOTSET", ""):
        return tuple(node.attributes.get_ints("pads", (0,) * 2 * len(kernel)))
    if rule == "VALID":
        return (0,) * 2 * len(kernel)
    if max(node.attributes.get_ints("dilations", (1,))) > 1:
        raise StaysDense(f"has auto_pad {rule} and dilations, which onnxruntime does not run either")
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    before, behind = [], []
    for axis, (extent, stride) in enumerate(zip(kernel, strides, strict=True), 2):
        size = shape[axis] if shape is not None else None
        if stride == 1:
            size = 1  # the output has the size of the input, whatever that is
        elif not isinstance(size, int):
            raise StaysDense(f"has auto_pad {rule} and a stride, at a size that the model leaves open")
        total = max(0, extent - 1 - (size - 1) % stride)
        less, more = total // 2, total - total // 2
        before.append(less if rule == "SAME_UPPER" else more)
        behind.append(more if rule == "SAME_UPPER" else less)
    return (*before, *behind)
