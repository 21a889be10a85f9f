"""Drop-in layers: one file a layer, each with the input and output shapes of the dense one it takes the place of.

A layer is made by ``Layer.from_dense(original, **arguments)`` and is an ordinary module: its products are the usual
``nn.Linear`` and ``nn.Conv``, so counters, masks, exporters and optimisers see nothing new. Its tensors are on the meta
device; surgery gives them storage, and the plan's fills their values.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from sift_cli import registry
from sift_cli.errors import PlanError
from sift_cli.layers._base import Replacement, truncated_svd
from sift_cli.layers._dense import bias_of, refusal, sizes_of, weight_of
from sift_cli.layers._sigma import IDENTITY, activation_in

__all__ = [
    "IDENTITY",
    "Replacement",
    "activation_in",
    "bias_of",
    "from_dense",
    "names",
    "refusal",
    "sizes_of",
    "truncated_svd",
    "weight_of",
]


def names() -> tuple[str, ...]:
    """Names of all drop-in layers."""
    return registry.names(__name__)


def from_dense(layer: str, original: nn.Module, arguments: Mapping[str, int | str]) -> Replacement:
    """A layer named ``layer`` for the place of ``original``, on the meta device.

    Raises:
        PlanError: There is no such layer, it does not take these arguments, or ``original`` is not a layer that can be
            replaced.
    """
    if layer not in names():
        raise PlanError(f"there is no layer {layer!r}", hint=f"choose one of: {', '.join(names())}")
    try:
        made: Replacement = registry.discover(__name__)[layer].Layer.from_dense(original, **arguments)
    except TypeError as error:
        raise PlanError(f"a layer {layer} cannot be made: {error}") from None
    return made.train(original.training)
