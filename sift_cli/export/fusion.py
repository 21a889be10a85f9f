"""What stands behind a sparse operator in the graph becomes a part of it: constants go into its bias, then come a
residual and an activation. Sums are then finished while they are in registers, and not in passes over memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from sift_cli.export.activations import activation_of
from sift_cli.export.rows import arranged_before
from sift_cli.export.sparse_node import BIAS, RESIDUAL, SparseNode, constant, same, shape_of


def fuse(model: ir.Model) -> None:
    """Fuse in place, in the main graph.

    Nothing is taken in that anybody else reads, and a residual only where it has the shape of the sum for certain. What
    nothing reads any more afterwards stays in the graph.

    Args:
        model: Its sparse operators all have a bias, as lowering gives them one.
    """
    # From the last to the first: of two sparse operators that are added up, the one that is computed last adds.
    for node in reversed(list(model.graph)):
        sparse = SparseNode.of(node)
        while sparse is not None and not sparse.operator.activation:
            sparse = arranged_before(sparse) or _with_bias(sparse) or _with_residual(sparse) or _with_activation(sparse)


def _with_bias(sparse: SparseNode) -> SparseNode | None:
    """With a constant behind it, one number for each channel or for all, in its bias."""
    add, bias = sparse.user, sparse.node.inputs[BIAS]
    if add is None or add.op_type != "Add":
        return None
    other = _beside(sparse, add)
    added, present = constant(other), constant(bias)
    filters = sparse.weight_shape[0]
    if added is None or present is None or added.dtype != ir.DataType.FLOAT or added.size not in (1, filters):
        return None
    axes = len(sparse.shape or [None])  # as few as it may have: a constant of more would give the sum its own
    by_channel = (1, filters, 1, 1) if sparse.operator.layer == "Conv" else (1,) * (axes - 1) + (filters,)
    try:
        row = np.broadcast_to(added.numpy(), by_channel).reshape(-1)
    except ValueError:  # it lies along another axis, or the sum has more of them
        return None
    if not present.numpy().any() and other is not None and other.is_initializer() and tuple(added.shape) == (filters,):
        return sparse.becomes(sparse.operator, [add], {BIAS: other})
    total = (present.numpy().astype(np.float64) + row).astype(np.float32)
    return sparse.becomes(sparse.operator, [add], {BIAS: sparse.add_constant("bias", total)})


def _with_residual(sparse: SparseNode) -> SparseNode | None:
    add = sparse.user
    if sparse.operator.adds or add is None or add.op_type != "Add":
        return None
    other = _beside(sparse, add)
    if other is None or constant(other) is not None or not same(sparse.shape, shape_of(other)):
        return None
    return sparse.becomes(replace(sparse.operator, adds=True), [add], {RESIDUAL: other})


def _with_activation(sparse: SparseNode) -> SparseNode | None:
    found = activation_of(sparse.output)
    if found is None:
        return None
    return sparse.becomes(replace(sparse.operator, activation=found.name), found.nodes, {}, found.attributes)


def _beside(sparse: SparseNode, add: ir.Node) -> ir.Value | None:
    return next(value for value in add.inputs if value is not sparse.output)
