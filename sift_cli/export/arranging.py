"""Between two sparse layers a tensor may stay in the form in which the second one reads it: nothing is then rearranged
at the end of the one and again at the beginning of the other. Only sift's library knows that form; the fallback
functions ignore the attribute that asks for it."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import onnx
from onnx import helper

from sift_cli.core.operators import operator_of
from sift_cli.export.sparse_node import RESIDUAL, X
from sift_cli.flops.onnx_graph import attribute, weight_shape

#: Ints: whether X may be arranged, whether Y is, and of a convolution the pixels that Y's readers need around it: top,
#: left, bottom, right.
ARRANGED = "arranged"
#: Ints: strides of a convolution's readers, where they are not 1.
STRIDES = "arranged_strides"


class Reading(NamedTuple):
    """How the layers that read a value do that.

    Attributes:
        halo: Pixels that they need around it: top, left, bottom, right; of linear layers ().
        strides: Theirs: down, across. Where they are not 1, the size of the image says whether it is arranged.
    """

    halo: tuple[int, ...] = ()
    strides: tuple[int, ...] = (1, 1)


#: Each pixel by itself, as sums do.
_PIXELS = Reading((0,) * 4)


def arrange(model: onnx.ModelProto) -> None:
    """Ask for it, in place, wherever that is possible."""
    arranged = readings(model)
    for node in model.graph.node:
        operator = operator_of(node.domain, node.op_type)
        if operator is None or not (node.input[X] in arranged or node.output[0] in arranged):
            continue
        reading = arranged.get(node.output[0], _PIXELS if operator.layer == "Conv" else Reading())
        flags = (int(node.input[X] in arranged), int(node.output[0] in arranged))
        node.attribute.append(helper.make_attribute(ARRANGED, [*flags, *reading.halo]))
        if reading.strides != (1, 1):
            node.attribute.append(helper.make_attribute(STRIDES, reading.strides))
    told = [value for value in model.graph.value_info if value.name not in arranged]  # they have another shape now
    del model.graph.value_info[:]
    model.graph.value_info.extend(told)


def readings(model: onnx.ModelProto) -> dict[str, Reading]:
    """What can be arranged, because all that read a sparse layer's output are sparse layers of the same kind, and how
    these read it."""
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            readers[name].append((node, at))
    hidden = {name for node in model.graph.node for name in _captured(node)}
    hidden |= {value.name for value in model.graph.output}
    found: dict[str, Reading] = {}
    for node in model.graph.node:
        if operator_of(node.domain, node.op_type) and (name := node.output[0]) not in hidden:
            reading = _needed(node, readers[name])
            if reading is not None:
                found[name] = reading
    return found


def forget(model: onnx.ModelProto) -> None:
    """Let every value be what the graph says, in place."""
    for node in model.graph.node:
        kept = [item for item in node.attribute if item.name not in (ARRANGED, STRIDES)]
        if operator_of(node.domain, node.op_type) and len(kept) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(kept)


def _captured(node: onnx.NodeProto) -> set[str]:
    """Names that the subgraphs of ``node`` read."""
    graphs = [item.g for item in node.attribute if item.HasField("g")]
    graphs += [graph for item in node.attribute for graph in item.graphs]
    return {
        name
        for graph in graphs
        for inner in graph.node
        for name in (*inner.input, *_captured(inner), *(value.name for value in graph.output))
    }


def _needed(node: onnx.NodeProto, readers: list[tuple[onnx.NodeProto, int]]) -> Reading | None:
    """How the readers of a sparse layer's output read it; None where it stays as it is."""
    operator = operator_of(node.domain, node.op_type)
    assert operator is not None
    kinds = {found.layer if (found := operator_of(user.domain, user.op_type)) else None for user, _ in readers}
    if kinds != {operator.layer} or any(at not in (X, RESIDUAL) for _, at in readers):
        return None
    if operator.layer == "Linear":  # whose kernels add no residual to what they arrange, nor an arranged one
        return Reading() if not operator.adds and all(at == X for _, at in readers) else None
    as_x, adding = ([_reading(user) for user, where in readers if where == at] for at in (X, RESIDUAL))
    if not as_x and _PIXELS in adding:  # a 1x1 convolution, which nothing else may make rearrange its own X
        return None
    needed = [reading for reading in as_x + [_PIXELS] * bool(adding) if reading is not None]
    if None in as_x or len({reading.strides for reading in needed}) > 1:
        return None
    return Reading(tuple(map(max, *(reading.halo for reading in needed), (0,) * 4)), needed[0].strides)


def _reading(node: onnx.NodeProto) -> Reading | None:
    """How a convolution reads an X of the size of Y times its strides; None where that is not its size."""
    (*_, high, wide), dilations = weight_shape(node), attribute(node, "dilations")
    top, left, bottom, right = attribute(node, "pads")
    down, across = ((kernel - 1) * dilation for kernel, dilation in zip((high, wide), dilations, strict=True))
    if (top + bottom, left + right) != (down, across):
        return None
    strides = tuple(attribute(node, "strides"))
    past = (max(pad - stride + 1, 0) for pad, stride in zip((bottom, right), strides, strict=True))
    return Reading((top, left, *past), strides)
