"""How much two masks of one tensor have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sift_cli.core.masks import Mask


@dataclass(frozen=True)
class Overlap:
    """Kept weights of an earlier mask, of a later one and of both. Those of several layers add up.

    Attributes:
        shared: Weights that both keep.
        before, after: Weights that the earlier and the later mask keep.
    """

    shared: int = 0
    before: int = 0
    after: int = 0

    @classmethod
    def of(cls, before: Mask, after: Mask) -> Overlap:
        """Compare two masks of the same shape."""
        shared = int(np.bitwise_count(before.bits & after.bits).sum(dtype=np.int64))
        return cls(shared, before.nonzero, after.nonzero)

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.shared + other.shared, self.before + other.before, self.after + other.after)

    @property
    def jaccard(self) -> float | None:
        """|A ∩ B| / |A ∪ B|; None for two empty masks."""
        return _ratio(self.shared, self.before + self.after - self.shared)

    @property
    def kept(self) -> float | None:
        """|A ∩ B| / |A|, the share of the earlier connections that are still there; None where there were none."""
        return _ratio(self.shared, self.before)

    @property
    def churn(self) -> float | None:
        """|A △ B| / (|A| + |B|): where both keep as many weights, the share of connections that were replaced."""
        return _ratio(self.before + self.after - 2 * self.shared, self.before + self.after)

    def to_json(self) -> dict[str, Any]:
        return {
            "shared": self.shared,
            "before": self.before,
            "after": self.after,
            "jaccard": self.jaccard,
            "kept": self.kept,
            "churn": self.churn,
        }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
