"""A pruned ONNX model from any tool, its zeros in dense weights or its weights stored sparse → the same graph with
sift's operators.

What has no sparse weight stays as it is: nodes, subgraphs, functions, quantised layers, names and metadata.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from sift_cli.core.operators import DOMAIN
from sift_cli.errors import ExportError
from sift_cli.export import fallback
from sift_cli.export.fusion import fuse
from sift_cli.export.graph_weights import graphs, names, store_masks
from sift_cli.export.layer_plans import LayerPlans, set_plans
from sift_cli.export.pruned import conv, linear
from sift_cli.export.pruned._layer import Layer, StaysDense
from sift_cli.export.pruned.affine import behind
from sift_cli.export.pruned.constants import MASK
from sift_cli.export.pruned.placing import Places
from sift_cli.export.pruned.source import Source, opset_of

_KINDS: dict[str, Callable[[ir.Node, int], Layer]] = {"Conv": conv.layer, "Gemm": linear.layer, "MatMul": linear.layer}


@dataclass(frozen=True)
class SparseWeight:
    """A weight of the source that some layers have as a sparse one.

    Attributes:
        source: Its name in the source.
        stored: The name under which its bitmask and values are stored.
        kept: How many of its elements the source keeps: those under its mask, or else those that are not 0.
    """

    source: str
    stored: str
    kept: int


def sparsified(
    source: Source,
    path: Path,
    *,
    least: float,
    decided: LayerPlans | None = None,
) -> tuple[onnx.ModelProto, tuple[SparseWeight, ...]]:
    """The model of ``source`` with sift's operators for its sparse layers and their fallback functions, and the weights
    of those. A mask that is stored stays one, too, where no sparse layer reads it.

    Args:
        source: What :func:`~sift_cli.export.pruned.source.read` returned.
        path: Where it was read from, for messages.
        least: Share of zeros from which on a weight becomes sparse.
        decided: What is known better, by names of the source.

    Raises:
        ExportError: No layer of the model becomes sparse, or a name that a mask needs is taken.
    """
    model, opset = source.model, opset_of(source.model)
    work = ir.from_proto(model)
    graph, decided = work.graph, decided or LayerPlans()
    for name, mask in source.masks[0].items():
        graph.initializers[name].meta[MASK] = mask
    _infer_shapes(graph, model)
    read = {value for value in _values(graph) if _is_read(value)}
    chosen = _chosen(graph, opset, path, least, decided.dense)
    users = Counter(root for _, root in chosen)
    places, weights = Places(graph, opset, {node for node, _ in chosen}), []
    for node, root in chosen:
        layer = _KINDS[node.op_type](node, opset)
        stored = places.put(layer, behind(layer, opset, scaling=users[root] == 1))
        weights.append(SparseWeight(layer.root.name or "", stored, int(np.count_nonzero(layer.kept))))
    fuse(work)
    plans = {weight.stored: decided.plans[weight.source] for weight in weights if weight.source in decided.plans}
    set_plans(work, plans)
    _drop(graph, read)
    return _proto(work, source, path, opset), tuple(dict.fromkeys(weights))


def _infer_shapes(graph: ir.Graph, model: onnx.ModelProto) -> None:
    """Give the values of the main graph shapes. onnx would write into the subgraphs, too, so it works on a copy."""
    copy = ir.from_proto(model)
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
    inferred = {value.name: value for value in _values(copy.graph)}
    for node in graph:
        for value in node.outputs:
            known = inferred[value.name]
            if known.shape is not None:
                value.shape, value.type = ir.Shape(known.shape), known.type


def _chosen(graph: ir.Graph, opset: int, path: Path, least: float, dense: Collection[str]) -> list[tuple[ir.Node, str]]:
    """Nodes of the main graph that become sparse, with their weights' names.

    The weights are read once more when it is their turn, so that not all of them are in memory twice.
    """
    chosen, sparsest, why = [], None, Counter[str]()
    for node in graph:
        kind = None if node.domain else _KINDS.get(node.op_type)
        if kind is None:
            continue
        try:
            layer = kind(node, opset)
        except StaysDense as reason:
            why[str(reason)] += 1
            continue
        if layer.root.name not in dense and layer.sparsity >= least:
            chosen.append((node, layer.root.name or ""))
        elif sparsest is None or layer.sparsity > sparsest.sparsity:
            sparsest = layer
    if chosen:
        return chosen
    if sparsest is None:
        reasons = "".join(f"; {count} that {reason}" for reason, count in why.most_common(3))
        raise ExportError(f"{path} has no Conv, Gemm or MatMul that can become sparse{reasons}")
    found, size = sparsest.sparsity, list(sparsest.weight.shape)
    raise ExportError(
        f"no layer of {path} is worth a sparse operator: the sparsest weight, {sparsest.root.name!r} of {size}, has "
        f"{found:.1%} zeros" + (f" and not {least:.1%}" if found < least else ""),
        hint=f"to try, pass --min-sparsity {math.floor(found * 1000) / 1000}" if found >= 0.001 else "prune it first",
    )


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _drop(graph: ir.Graph, read: set[ir.Value]) -> None:
    """Drop what was ``read`` in the source and no longer is."""
    for node in reversed(graph):
        if not any(_is_read(value) for value in node.outputs) and not read.isdisjoint(node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not _is_read(value) and value in read:
            del graph.initializers[name]


def _proto(work: ir.Model, source: Source, path: Path, opset: int) -> onnx.ModelProto:
    work.opset_imports[DOMAIN] = 1
    proto = ir.to_proto(work)
    before = source.model.graph
    # Inferred shapes served to recognise what can be fused. A model says of itself what its maker said.
    declared = {value.name for value in before.value_info}
    told = [value for value in proto.graph.value_info if value.name in declared]
    del proto.graph.value_info[:], proto.graph.output[:]
    proto.graph.value_info.extend(told)
    proto.graph.output.extend(before.output)
    taken = names(proto)
    for graph, masks in zip(graphs(proto), source.masks, strict=True):
        if masks:
            store_masks(path, graph, masks, taken)
    used = {node.op_type for graph in graphs(proto) for node in graph.node if node.domain == DOMAIN}
    there = {function.name for function in proto.functions if function.domain == DOMAIN}
    proto.functions.extend(fallback.functions(used - there, opset))
    return proto
