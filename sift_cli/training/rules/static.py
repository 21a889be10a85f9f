"""Masks stay as they are."""

from __future__ import annotations

from sift_cli.training.rules._base import Layer, MaskUpdate

USES: frozenset[str] = frozenset()


def update(layer: Layer) -> MaskUpdate:
    return layer.nothing()
