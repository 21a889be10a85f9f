"""Overlap and churn of masks, against sets."""

from __future__ import annotations

import numpy as np
import pytest

from sift_cli.analysis.overlap import Overlap
from sift_cli.core.masks import Mask


def overlap(before: list[int], after: list[int], size: int = 21) -> Overlap:
    def mask(kept: list[int]) -> Mask:
        return Mask.from_bool(np.isin(np.arange(size), kept).reshape(3, -1))

    return Overlap.of(mask(before), mask(after))


@pytest.mark.parametrize(
    ("before", "after", "jaccard", "kept", "churn"),
    [
        ([1, 2, 3, 20], [1, 2, 3, 20], 1, 1, 0),
        ([0, 1, 2, 3], [4, 5, 6, 7], 0, 0, 1),
        ([0, 7, 8, 20], [7, 8, 15, 20], 3 / 5, 3 / 4, 1 / 4),
        ([0, 7, 8, 20], [8], 1 / 4, 1 / 4, 3 / 5),
        ([8], [0, 7, 8, 20], 1 / 4, 1, 3 / 5),
        ([], [3, 4], 0, None, 1),
        ([3, 4], [], 0, 0, 1),
        ([], [], None, None, None),
    ],
)
def test_shares(before: list[int], after: list[int], jaccard: float, kept: float, churn: float) -> None:
    measured = overlap(before, after)
    assert (measured.jaccard, measured.kept, measured.churn) == (jaccard, kept, churn)
    assert measured.to_json() == {
        "shared": len(set(before) & set(after)), "before": len(before), "after": len(after),
        "jaccard": jaccard, "kept": kept, "churn": churn,
    }  # fmt: skip


def test_layers_add_up_by_weights() -> None:
    both = overlap([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]) + overlap([0, 1], [1, 2])
    assert (both.shared, both.before, both.after) == (7, 8, 8)
    assert (both.jaccard, both.kept, both.churn) == (7 / 9, 7 / 8, 1 / 8)
