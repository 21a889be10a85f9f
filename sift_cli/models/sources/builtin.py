"""Architectures that come with sift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sift_cli.core.plan import InputSpec

if TYPE_CHECKING:
    from torch import nn

PACKAGE: str | None = None

_NAMES = ("cifar_resnet18", "cifar_resnet34")


def names() -> tuple[str, ...]:
    return _NAMES


def has(name: str) -> bool:
    return name in _NAMES


def variants(name: str) -> tuple[dict[str, Any], ...]:
    return ({},)


def build(name: str, **kwargs: Any) -> nn.Module:
    from sift_cli.models.cifar_resnet import DEPTHS, CifarResNet

    return CifarResNet(DEPTHS[name], **kwargs)


def inputs(name: str, kwargs: Mapping[str, Any]) -> tuple[InputSpec, ...]:
    return (InputSpec((1, 3, 32, 32)),)
