"""One of sift's operators in a graph: what it is, what reads it, and another one in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sift_cli.core.operators import DOMAIN, Operator, operator_of
from sift_cli.export.values import add_initializer, names_in, unused

X, BITMASK, VALUES, BIAS, RESIDUAL = range(5)
Shape = list[int | str | None]


@dataclass(frozen=True)
class SparseNode:
    node: ir.Node
    operator: Operator

    @classmethod
    def of(cls, node: ir.Node) -> SparseNode | None:
        operator = operator_of(node.domain, node.op_type)
        return cls(node, operator) if operator is not None else None

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def weight_shape(self) -> Sequence[int]:
        return self.node.attributes["weight_shape"].as_ints()

    @property
    def weight_name(self) -> str:
        """The name of the weight that is stored as a bitmask and values."""
        bitmask = self.node.inputs[BITMASK]
        assert bitmask is not None
        assert bitmask.name is not None
        return bitmask.name.removesuffix(".bitmask")

    @property
    def user(self) -> ir.Node | None:
        """The node of the same graph that alone reads the output, or None."""
        return only_user(self.output)

    @property
    def shape(self) -> Shape | None:
        """The output's, as far as it is known."""
        known, rows = shape_of(self.output), shape_of(self.node.inputs[X])
        if known is None and rows and self.operator.layer == "Linear":
            return [*rows[:-1], self.weight_shape[0]]
        return known

    def becomes(
        self,
        operator: Operator,
        behind: Sequence[ir.Node],
        inputs: Mapping[int, ir.Value | None],
        attributes: Mapping[str, float] | None = None,
        *,
        new: Sequence[ir.Node] = (),
    ) -> SparseNode:
        """``operator`` in the place of this node and of those ``behind`` it.

        Args:
            operator: What this one and those compute together.
            behind: What it replaces besides this one; the output of the last becomes its own.
            inputs: Those that differ from this node's, by position.
            attributes: Those it has besides this node's.
            new: Nodes that make some of the inputs.

        It stands where the last of those behind stood: there, all that any of them reads has been computed.
        """
        given = dict(enumerate(self.node.inputs)) | dict(inputs)
        ordered = [given.get(at) for at in range(max(given) + 1)]
        node = ir.node(operator.name, ordered, {**self.node.attributes}, domain=DOMAIN, name=self.node.name)
        for name, number in (attributes or {}).items():
            node.attributes.add(ir.AttrFloat32(name, number))
        last = behind[-1]
        ir.convenience.replace_nodes_and_values(
            _graph(self.node), last, [*behind, self.node], [*new, node], last.outputs, node.outputs
        )
        return SparseNode(node, operator)

    def add_constant(self, part: str, array: np.ndarray) -> ir.Value:
        """A new initializer whose name says that it is this ``part`` of the node."""
        graph = _graph(self.node)
        return add_initializer(graph, unused(f"{self.weight_name}.{part}", names_in(graph)), array)


def _graph(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that alone reads ``value``, where that is one of the standard operators in the same graph."""
    if len(value.uses()) != 1 or value.is_graph_output():
        return None
    (use,), producer = value.uses(), value.producer()
    return use.node if producer is not None and use.node.graph is producer.graph and not use.node.domain else None


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor that ``value`` always is, or None where it may vary."""
    if value is None or value.is_graph_input():
        return None
    return ir.convenience.get_const_tensor(value)


def shape_of(value: ir.Value | None) -> Shape | None:
    """Sizes and names of the axes, None for one that is unknown; None where not even their number is known."""
    if value is None or value.shape is None:
        return None
    return [axis if isinstance(axis, int) else axis.value for axis in value.shape]


def same(one: Shape | None, other: Shape | None) -> bool:
    """Whether two shapes are equal for certain."""
    return one is not None and one == other and None not in one
