"""Sparse operators in the place of dense nodes, each weight stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from sift_cli.core.masks import Mask
from sift_cli.core.operators import DOMAIN
from sift_cli.export.lowering._sparse import sparse_inputs
from sift_cli.export.pruned._layer import Layer
from sift_cli.export.pruned.affine import Affine
from sift_cli.export.pruned.constants import ARRANGING
from sift_cli.export.values import add_initializer, names_in, unused


class Places:
    """A graph in which dense nodes are replaced, and the names that are taken in it."""

    def __init__(self, graph: ir.Graph, opset: int, chosen: Collection[ir.Node]) -> None:
        """
        Args:
            graph: The main graph.
            opset: Version of its standard operators.
            chosen: All nodes that will be replaced.
        """
        self._graph = graph
        self._opset = opset
        self._chosen = chosen
        self._taken = names_in(graph)
        self._stored: dict[tuple[str, bytes], str] = {}

    def put(self, layer: Layer, affine: Affine) -> str:
        """Put ``layer`` in the place of its node and of those of ``affine``, and say what its weight is called now."""
        node, last = layer.node, affine.nodes[-1] if affine.nodes else layer.node
        column = (-1, *(1,) * (layer.weight.ndim - 1))
        weight = (layer.weight * affine.scale.reshape(column)).astype(np.float32)
        shift = affine.shift if layer.bias is None else layer.bias * affine.scale + affine.shift
        stored = self._name_of(layer.root, weight, layer.kept)
        value = ir.Value(name=stored, const_value=ir.Tensor(weight, name=stored))
        bias = self._bias(node, stored, shift.astype(np.float32))
        new, x = [], node.inputs[0]
        name = node.name or node.outputs[0].name or stored
        if layer.axes:
            new.append(self._rearranged("Unsqueeze", x, layer.axes, name))
            x = new[-1].outputs[0]
        inputs = [x, *sparse_inputs(self._graph, value, bias, Mask.from_bool(layer.kept))]
        attributes = {"weight_shape": layer.weight.shape, **layer.attributes}
        new.append(ir.node(f"Sparse{layer.op}", inputs, attributes, domain=DOMAIN, name=name))
        if layer.axes:
            new.append(self._rearranged("Squeeze", new[-1].outputs[0], layer.axes, name))
        if layer.added is not None:
            new.append(ir.node("Add", [new[-1].outputs[0], layer.added], name=f"{name}/add"))
        for inner in new[:-1]:
            inner.outputs[0].name = self._fresh(f"{name}/{inner.op_type}")
        # Where the first of the old nodes stood: all that the new ones read has been computed there.
        ir.convenience.replace_nodes_and_values(
            self._graph, node, [*reversed(affine.nodes), node], new, last.outputs[:1], new[-1].outputs
        )
        return stored

    def _name_of(self, root: ir.Value, weight: np.ndarray, kept: np.ndarray) -> str:
        """The name to store ``weight`` under: the source's own, unless that weight stays or was stored already, and
        differently."""
        assert root.name is not None
        key = root.name, hashlib.sha256(repr(weight.shape).encode() + weight.tobytes() + kept.tobytes()).digest()
        if key not in self._stored:
            stored = root.name if self._goes(root) else f"{root.name}.sparse"
            while any(f"{stored}.{part}" in self._taken for part in ("bitmask", "values")):
                stored += "+"
            self._taken |= {f"{stored}.{part}" for part in ("bitmask", "values")}
            self._stored[key] = stored
        return self._stored[key]

    def _goes(self, weight: ir.Value) -> bool:
        """Whether only nodes that are replaced read ``weight``."""
        return not weight.is_graph_output() and all(
            (use.idx == 1 and use.node in self._chosen)
            or (use.idx == 0 and use.node.op_type in ARRANGING and self._goes(use.node.outputs[0]))
            for use in weight.uses()
        )

    def _bias(self, node: ir.Node, stored: str, bias: np.ndarray) -> ir.Value:
        """An initializer with this value: that of the node, one made before, or a new one."""
        given = node.inputs[2] if len(node.inputs) > 2 else None
        if given is not None and given.is_initializer() and _is(given, bias):
            return given
        name = f"{stored}.bias"
        while name in self._taken:
            if name in self._graph.initializers and _is(self._graph.initializers[name], bias):
                return self._graph.initializers[name]
            name += "+"
        return self._initializer(name, bias)

    def _initializer(self, name: str, array: np.ndarray) -> ir.Value:
        return add_initializer(self._graph, self._fresh(name), array)

    def _rearranged(self, op: str, x: ir.Value | None, axes: Sequence[int], name: str) -> ir.Node:
        """Unsqueeze or Squeeze; their axes are an attribute before opset 13, and an input since."""
        if self._opset < 13:
            return ir.node(op, [x], {"axes": tuple(axes)}, name=f"{name}/{op}")
        return ir.node(op, [x, self._initializer(f"{name}/axes", np.array(axes))], name=f"{name}/{op}")

    def _fresh(self, name: str) -> str:
        fresh = unused(name, self._taken)
        self._taken.add(fresh)
        return fresh


def _is(value: ir.Value, array: np.ndarray) -> bool:
    if value.const_value is None or value.is_graph_input():
        return False
    own = value.const_value.numpy()
    return own.dtype == array.dtype and own.shape == array.shape and own.tobytes() == array.tobytes()
