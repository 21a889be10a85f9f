"""Any positions."""

from __future__ import annotations

import numpy as np

from sift_cli.sparsity.draw import lowest
from sift_cli.sparsity.patterns._base import Gemm, Pattern

SYNTAX = ("unstructured",)


class Unstructured(Pattern):
    name = "unstructured"

    def feasible(self, gemm: Gemm) -> range:
        return range(gemm.numel + 1)

    def violations(self, gemm: Gemm, kept: np.ndarray) -> int:
        return 0

    def _choose(self, gemm: Gemm, costs: np.ndarray, nonzero: int) -> np.ndarray:
        return lowest(costs, nonzero)


def parse(text: str) -> Pattern | None:
    return Unstructured() if text == Unstructured.name else None
