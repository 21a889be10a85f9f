"""Which pruned layers become sparse operators."""

from __future__ import annotations

import math

import pytest

from sift_cli.export.pruned.worth import worth


@pytest.mark.parametrize(
    ("op", "shape", "group", "sparsity", "expected"),
    [
        ("Conv", (64, 64, 3, 3), 1, 0.5, True),
        ("Conv", (64, 64, 3, 3), 1, 0.49, False),
        ("Conv", (64, 64, 1, 1), 1, 0.5, False),
        ("Conv", (64, 64, 1, 1), 1, 0.6, True),
        ("Conv", (512, 1, 3, 3), 512, 0.9, False),
        ("Conv", (512, 16, 3, 3), 32, 0.9, True),
        ("Linear", (64, 64), 1, 0.5, True),
        ("Linear", (10, 64), 1, 0.9, False),
    ],
)
def test_a_layer_becomes_sparse_where_that_is_faster(
    op: str, shape: tuple[int, ...], group: int, sparsity: float, expected: bool
) -> None:
    kept = math.prod(shape) - math.ceil(sparsity * math.prod(shape))
    assert worth(op, shape, kept, group=group) is expected  # type: ignore[arg-type]
    assert worth(op, shape, kept, group=group, least=0.95) is False  # type: ignore[arg-type]
    assert worth(op, shape, kept, group=group, least=0.4) is True  # type: ignore[arg-type]
