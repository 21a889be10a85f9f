"""Architectures that come with sift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sift_cli.core.plan import InputSpec

if TYPE_CHECKING:
    from torch import nn

PACKAGE: str | None = None

_INPUTS = {
    "cifar_resnet18": (1, 3, 32, 32),
    "cifar_resnet34": (1, 3, 32, 32),
    "mnist1d_cnn": (1, 1, 40),
}


def names() -> tuple[str, ...]:
    return tuple(_INPUTS)


def has(name: str) -> bool:
    return name in _INPUTS


def variants(name: str) -> tuple[dict[str, Any], ...]:
    return ({},)


def build(name: str, **kwargs: Any) -> nn.Module:
    if name == "mnist1d_cnn":
        from sift_cli.models.mnist1d_cnn import Mnist1dCnn

        return Mnist1dCnn(**kwargs)
    from sift_cli.models.cifar_resnet import DEPTHS, CifarResNet

    return CifarResNet(DEPTHS[name], **kwargs)


def inputs(name: str, kwargs: Mapping[str, Any]) -> tuple[InputSpec, ...]:
    return (InputSpec(_INPUTS[name]),)
