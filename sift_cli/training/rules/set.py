"""SET: drop the smallest weights and grow as many at random.

Source: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
network science", Nature Communications 2018; with one threshold for both signs, as Evci et al. have it.
"""

from __future__ import annotations

from sift_cli.training.rules._base import Layer, MaskUpdate

USES = frozenset({"weight"})


def update(layer: Layer) -> MaskUpdate:
    return layer.exchange(layer.uniform())
