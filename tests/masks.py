"""Masks for tests, drawn as a transform draws them."""

from __future__ import annotations

from sift_cli.core.masks import Mask
from sift_cli.sparsity.patterns import Gemm, parse


def random_mask(shape: tuple[int, ...], nonzero: int, *, seed: int, name: str) -> Mask:
    """``nonzero`` positions anywhere."""
    return parse("unstructured").draw(Gemm(shape), nonzero, seed=seed, name=name)
