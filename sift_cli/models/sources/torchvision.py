"""torchvision's classification models.

A GoogLeNet or Inception built here does not normalise its input itself; with ``weights=`` torchvision builds them with
``transform_input=True``, which no state_dict records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sift_cli.compat import import_torchvision
from sift_cli.core.plan import InputSpec

if TYPE_CHECKING:
    from torch import nn

PACKAGE = "torchvision"

_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def names() -> tuple[str, ...]:
    return _names("a torchvision model")


def has(name: str) -> bool:
    return name in _names(f"torchvision:{name}")


def variants(name: str) -> tuple[dict[str, Any], ...]:
    """The auxiliary heads are absent from some published files; a vision transformer's size depends on the image's."""
    if name in _WITH_AUXILIARY_HEADS:
        return ({}, {"aux_logits": False})
    if name.startswith("vit_"):
        first, *larger = sorted(_crop_sizes(name))
        return ({}, *({"image_size": size} for size in larger if size != first))
    return ({},)


def build(name: str, **kwargs: Any) -> nn.Module:
    models = import_torchvision(f"torchvision:{name}").models
    if name in _WITH_AUXILIARY_HEADS:
        # What torchvision does by default, said aloud: without it, it warns that the default will change.
        kwargs = {"init_weights": True, **kwargs}
    model: nn.Module = models.get_model(name, weights=None, **kwargs)
    return model


def inputs(name: str, kwargs: Mapping[str, Any]) -> tuple[InputSpec, ...]:
    """The size that the published weights are evaluated at; the smallest, where there are several."""
    size = kwargs.get("image_size") or min(_crop_sizes(name))
    return (InputSpec((1, 3, size, size)),)


def _crop_sizes(name: str) -> set[int]:
    weights = import_torchvision(f"torchvision:{name}").models.get_model_weights(name)
    return {entry.transforms.keywords["crop_size"] for entry in weights}


def _names(needed_for: str) -> tuple[str, ...]:
    models = import_torchvision(needed_for).models
    return tuple(models.list_models(module=models))
