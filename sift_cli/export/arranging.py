"""Between two sparse layers a tensor may stay in the form in which the second one reads it: nothing is then rearranged
at the end of the one and again at the beginning of the other. Only sift's library knows that form; the fallback
functions ignore the attribute that asks for it."""

from __future__ import annotations

from collections import defaultdict

import onnx
from onnx import helper

from sift_cli.core.operators import operator_of
from sift_cli.export.sparse_node import RESIDUAL, X
from sift_cli.flops.onnx_graph import attribute, weight_shape

#: Ints: whether X may be arranged, whether Y is, and of a convolution the pixels that Y's readers need around it: top,
#: left, bottom, right.
ARRANGED = "arranged"

Halo = tuple[int, ...]


def arrange(model: onnx.ModelProto) -> None:
    """Ask for it, in place, wherever that is possible."""
    arranged = halos(model)
    for node in model.graph.node:
        operator = operator_of(node.domain, node.op_type)
        if operator is None or not (node.input[X] in arranged or node.output[0] in arranged):
            continue
        halo = arranged.get(node.output[0], (0,) * 4) if operator.layer == "Conv" else ()
        flags = (int(node.input[X] in arranged), int(node.output[0] in arranged))
        node.attribute.append(helper.make_attribute(ARRANGED, [*flags, *halo]))
    told = [value for value in model.graph.value_info if value.name not in arranged]  # they have another shape now
    del model.graph.value_info[:]
    model.graph.value_info.extend(told)


def halos(model: onnx.ModelProto) -> dict[str, Halo]:
    """What can be arranged, because all that read a sparse layer's output are sparse layers of the same kind, and the
    pixels that these need around it; () for linear layers."""
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            readers[name].append((node, at))
    hidden = {name for node in model.graph.node for name in _captured(node)}
    hidden |= {value.name for value in model.graph.output}
    found: dict[str, Halo] = {}
    for node in model.graph.node:
        if operator_of(node.domain, node.op_type) and (name := node.output[0]) not in hidden:
            halo = _needed(node, readers[name])
            if halo is not None:
                found[name] = halo
    return found


def forget(model: onnx.ModelProto) -> None:
    """Let every value be what the graph says, in place."""
    for node in model.graph.node:
        kept = [item for item in node.attribute if item.name != ARRANGED]
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


def _needed(node: onnx.NodeProto, readers: list[tuple[onnx.NodeProto, int]]) -> Halo | None:
    """What the readers of a sparse layer's output need around it, () of a linear one; None where it stays as it is."""
    operator = operator_of(node.domain, node.op_type)
    assert operator is not None
    kinds = {found.layer if (found := operator_of(user.domain, user.op_type)) else None for user, _ in readers}
    if kinds != {operator.layer} or any(at not in (X, RESIDUAL) for _, at in readers):
        return None
    if operator.layer == "Linear":  # whose kernels add no residual to what they arrange, nor an arranged one
        return () if not operator.adds and all(at == X for _, at in readers) else None
    needed = {_halo(user) for user, at in readers if at == X}
    return needed.pop() if len(needed) == 1 else None


def _halo(node: onnx.NodeProto) -> Halo | None:
    """Pixels that a convolution reads around an X of the size of Y; None where its Y has another size."""
    (*_, high, wide), dilations = weight_shape(node), attribute(node, "dilations")
    top, left, bottom, right = attribute(node, "pads")
    down, across = ((kernel - 1) * dilation for kernel, dilation in zip((high, wide), dilations, strict=True))
    same = tuple(attribute(node, "strides")) == (1, 1) and (top + bottom, left + right) == (down, across)
    return (top, left, bottom, right) if same else None
