"""Which layers become sparse operators: decided once, for models of torch and for pruned ONNX models."""

from __future__ import annotations

import math

import pytest

from sift_cli.export.worth import Candidate, arranging_costs, dense_cost, reordering_cost, sparse_cost, worth

#: Operator, shape of the weight, groups, stride, positions, sparsity, and whether sparse is faster: from the table that
#: `benchmarks/runtime/layers.py --thresholds` prints.
MEASURED = [
    ("Conv", (64, 64, 3, 3), 1, 1, 3136, 0.5, True),
    ("Conv", (64, 64, 3, 3), 1, 1, 49, 0.6, False),
    ("Conv", (512, 512, 3, 3), 1, 1, 49, 0.6, True),
    ("Conv", (64, 64, 3, 3), 1, 1, 16, 0.75, False),
    ("Conv", (512, 512, 3, 3), 1, 1, 1, 0.9, False),
    ("Conv", (64, 64, 5, 5), 1, 1, 784, 0.5, True),
    ("Conv", (64, 3, 7, 7), 1, 2, 12544, 0.6, True),
    ("Conv", (32, 3, 3, 3), 1, 2, 12544, 0.75, False),
    ("Conv", (256, 64, 1, 1), 1, 1, 3136, 0.5, True),
    ("Conv", (960, 160, 1, 1), 1, 1, 49, 0.5, False),
    ("Conv", (512, 2048, 1, 1), 1, 1, 49, 0.7, True),
    ("Conv", (404, 202, 1, 1), 1, 2, 784, 0.5, True),
    ("Conv", (128, 64, 1, 1), 1, 2, 196, 0.75, False),
    ("Conv", (96, 1, 3, 3), 96, 1, 3136, 0.9, False),
    ("Conv", (512, 16, 3, 3), 32, 1, 196, 0.5, False),
    ("Conv", (256, 128, 3, 3), 2, 1, 196, 0.6, True),
    ("Linear", (64, 64), 1, 1, 16, 0.9, False),
    ("Linear", (10, 512), 1, 1, 197, 0.9, False),
    ("Linear", (256, 256), 1, 1, 1, 0.9, False),
    ("Linear", (256, 256), 1, 1, 128, 0.6, True),
    ("Linear", (384, 384), 1, 1, 1, 0.6, False),
    ("Linear", (3072, 768), 1, 1, 1, 0.5, True),
    ("Linear", (3072, 768), 1, 1, 8, 0.5, False),
    ("Linear", (3072, 768), 1, 1, 8, 0.7, True),
    ("Linear", (3072, 768), 1, 1, 16, 0.5, True),
    ("Linear", (3072, 768), 1, 1, 128, 0.5, True),
]


def candidate(
    op: str, shape: tuple[int, ...], group: int, stride: int, positions: int | None, sparsity: float
) -> Candidate:
    kept = math.prod(shape) - math.ceil(sparsity * math.prod(shape))
    return Candidate(op, shape, kept, group=group, strides=(stride, stride), positions=positions)  # type: ignore[arg-type]


def better_sparse(layer: Candidate) -> bool:
    """By itself, between layers that are neither dense convolutions nor sparse ones."""
    if layer.op == "Linear":
        return worth(layer)
    return sparse_cost(layer) + sum(arranging_costs(layer)) < dense_cost(layer) + reordering_cost(layer)


@pytest.mark.parametrize(("op", "shape", "group", "stride", "positions", "sparsity", "expected"), MEASURED)
def test_a_layer_becomes_sparse_where_that_is_faster(
    op: str, shape: tuple[int, ...], group: int, stride: int, positions: int, sparsity: float, expected: bool
) -> None:
    assert better_sparse(candidate(op, shape, group, stride, positions, sparsity)) is expected


@pytest.mark.parametrize("shape", [(64, 64, 3, 3), (64, 64, 1, 1), (768, 768)])
def test_where_nobody_knows_how_often_a_weight_is_used_it_is_often(shape: tuple[int, ...]) -> None:
    op = "Conv" if len(shape) == 4 else "Linear"
    for sparsity in (0.1, 0.9):
        unknown, often = (better_sparse(candidate(op, shape, 1, 1, positions, sparsity)) for positions in (None, 10**5))
        assert unknown is often


def test_more_zeros_never_make_a_layer_dense() -> None:
    for op, shape, group, stride, positions, *_ in MEASURED:
        decisions = [better_sparse(candidate(op, shape, group, stride, positions, s / 20)) for s in range(21)]
        assert decisions == sorted(decisions)
