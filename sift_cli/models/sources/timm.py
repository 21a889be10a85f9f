"""timm's models. A name may carry one of timm's tags (``resnet18.a1_in1k``), which chooses the input size alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sift_cli.compat import import_timm
from sift_cli.core.plan import InputSpec

if TYPE_CHECKING:
    from torch import nn

PACKAGE = "timm"


def names() -> tuple[str, ...]:
    return tuple(import_timm().list_models())


def has(name: str) -> bool:
    try:
        return bool(import_timm(f"timm:{name}").is_model(name)) and _config(name) is not None
    except RuntimeError:  # a known name with an unknown tag
        return False


def variants(name: str) -> tuple[dict[str, Any], ...]:
    return ({},)


def build(name: str, **kwargs: Any) -> nn.Module:
    model: nn.Module = import_timm(f"timm:{name}").create_model(name, pretrained=False, **kwargs)
    return model


def inputs(name: str, kwargs: Mapping[str, Any]) -> tuple[InputSpec, ...]:
    channels, height, width = getattr(_config(name), "input_size", None) or (3, 224, 224)
    size = kwargs.get("img_size", (height, width))
    return (InputSpec((1, kwargs.get("in_chans", channels), *((size, size) if isinstance(size, int) else size))),)


def _config(name: str) -> Any:
    """timm's description of the published weights that ``name`` stands for."""
    import_timm(f"timm:{name}")
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(name)
