"""RigL: drop the smallest weights and grow as many where the gradient of the loss is largest.

Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020. As in Cerebras' implementation, with
which Sparse-IFT was trained, the optimizer's step is done at an update too. There, what was just dropped may grow
again; here it waits for the next update.
"""

from __future__ import annotations

from sift_cli.training.rules._base import Layer, MaskUpdate

USES = frozenset({"weight", "gradient"})


def update(layer: Layer) -> MaskUpdate:
    if layer.gradient is None or not layer.gradient.any():
        return layer.prune()  # a layer that the loss does not reach, or that is dense, cannot say where to grow
    return layer.exchange(layer.gradient.abs().float())
