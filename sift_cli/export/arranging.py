"""Between two sparse layers a tensor may stay in the form in which the second one reads it: nothing is then rearranged
at the end of the one and again at the beginning of the other. Only sift's library knows that form; the fallback
functions ignore the attribute that asks for it."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import onnx
from onnx import helper

from sift_cli.core.operators import DOMAIN, MAX_POOL, operator_of
from sift_cli.export import fallback
from sift_cli.export.sparse_node import RESIDUAL, X
from sift_cli.flops.onnx_graph import attribute, domain, weight_shape

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
    """Ask for it, in place, wherever that is possible. A MaxPool between what is arranged becomes ArrangedMaxPool."""
    _take_pools(model)
    arranged = readings(model)
    for node in model.graph.node:
        layer = _layer(node)
        if layer is None or not (node.input[X] in arranged or node.output[0] in arranged):
            continue
        reading = arranged.get(node.output[0], _PIXELS if layer == "Conv" else Reading())
        flags = (int(node.input[X] in arranged), int(node.output[0] in arranged))
        node.attribute.append(helper.make_attribute(ARRANGED, [*flags, *reading.halo]))
        if reading.strides != (1, 1):
            node.attribute.append(helper.make_attribute(STRIDES, reading.strides))
    told = [value for value in model.graph.value_info if value.name not in arranged]  # they have another shape now
    del model.graph.value_info[:]
    model.graph.value_info.extend(told)


def readings(model: onnx.ModelProto) -> dict[str, Reading]:
    """What can be arranged, because all that read a sparse layer's output are sparse layers of the same kind, and how
    these read it. An ArrangedMaxPool is one as convolutions are."""
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            readers[name].append((node, at))
    hidden = {name for node in model.graph.node for name in _captured(node)}
    hidden |= {value.name for value in model.graph.output}
    found: dict[str, Reading] = {}
    for node in model.graph.node:
        if _layer(node) and (name := node.output[0]) not in hidden:
            reading = _needed(node, readers[name])
            if reading is not None:
                found[name] = reading
    return found


def forget(model: onnx.ModelProto) -> None:
    """Let every value be what the graph says, in place."""
    for node in model.graph.node:
        kept = [item for item in node.attribute if item.name not in (ARRANGED, STRIDES)]
        if _layer(node) and len(kept) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(kept)
        if _is_arranged_pool(node):
            node.domain, node.op_type = "", "MaxPool"
    pools = [function for function in model.functions if (function.domain, function.name) == (DOMAIN, MAX_POOL)]
    for function in pools:
        model.functions.remove(function)


def _take_pools(model: onnx.ModelProto) -> None:
    """Let each MaxPool whose input and output can be arranged be one that has them so."""
    pools = [(node, onnx.NodeProto.FromString(node.SerializeToString())) for node in model.graph.node if _is_pool(node)]
    for node, before in pools:
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("kernel_shape", attribute(before, "kernel_shape")))
        node.attribute.append(helper.make_attribute("strides", attribute(before, "strides", (1, 1))))
        node.domain, node.op_type = DOMAIN, MAX_POOL
    while True:  # one that stays as it is may be what another one needs
        arranged = readings(model)
        staying = [(node, before) for node, before in pools if not {node.input[X], node.output[0]} <= arranged.keys()]
        for node, before in staying:
            node.CopyFrom(before)
            pools.remove((node, before))
        if not staying:
            break
    if pools:
        opset = next(opset.version for opset in model.opset_import if not domain(opset.domain))
        model.functions.extend(fallback.functions([MAX_POOL], opset))


def _is_pool(node: onnx.NodeProto) -> bool:
    """Whether it is a MaxPool of images without padding, and of whole windows."""
    return (
        (domain(node.domain), node.op_type, len(node.output)) == ("", "MaxPool", 1)
        and len(attribute(node, "kernel_shape")) == 2
        and not any(attribute(node, "pads", ()))
        and set(attribute(node, "dilations", (1,))) == {1}
        and not attribute(node, "ceil_mode", 0)
        and attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _is_arranged_pool(node: onnx.NodeProto) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, MAX_POOL)


def _layer(node: onnx.NodeProto) -> str | None:
    """What kind of a layer reads and gives arranged tensors; None for any other node."""
    operator = operator_of(node.domain, node.op_type)
    return operator.layer if operator else "Conv" if _is_arranged_pool(node) else None


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
    layer, operator = _layer(node), operator_of(node.domain, node.op_type)
    if {_layer(user) for user, _ in readers} != {layer} or any(at not in (X, RESIDUAL) for _, at in readers):
        return None
    if layer == "Linear":  # whose kernels add no residual to what they arrange, nor an arranged one
        assert operator is not None
        return Reading() if not operator.adds and all(at == X for _, at in readers) else None
    as_x, adding = ([_reading(user) for user, where in readers if where == at] for at in (X, RESIDUAL))
    if not as_x and _PIXELS in adding:  # a 1x1 convolution, which nothing else may make rearrange its own X
        return None
    needed = [reading for reading in as_x + [_PIXELS] * bool(adding) if reading is not None]
    if None in as_x or len({reading.strides for reading in needed}) > 1:
        return None
    return Reading(tuple(map(max, *(reading.halo for reading in needed), (0,) * 4)), needed[0].strides)


def _reading(node: onnx.NodeProto) -> Reading | None:
    """How a convolution reads an X of the size of Y times its strides; None where that is not its size. Of a pool, Y
    may lack the last one."""
    if _is_arranged_pool(node):
        kernel, steps = attribute(node, "kernel_shape"), tuple(attribute(node, "strides"))
        return Reading((0, 0, *(max(size - step, 0) for size, step in zip(kernel, steps, strict=True))), steps)
    (*_, high, wide), dilations = weight_shape(node), attribute(node, "dilations")
    top, left, bottom, right = attribute(node, "pads")
    down, across = ((kernel - 1) * dilation for kernel, dilation in zip((high, wide), dilations, strict=True))
    if (top + bottom, left + right) != (down, across):
        return None
    strides = tuple(attribute(node, "strides"))
    past = (max(pad - stride + 1, 0) for pad, stride in zip((bottom, right), strides, strict=True))
    return Reading((top, left, *past), strides)
