"""σ: what follows a branch. The paper uses BatchNorm and ReLU in convolutional networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from torch import nn

from sift_cli.errors import PlanError
from sift_cli.layers import _dense

#: Activations by name: a closed vocabulary, because the name comes in files.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
}
#: Without an activation.
IDENTITY = "identity"


def sigma(original: nn.Module, features: int, norm: int, activation: str) -> nn.Module:
    """A BatchNorm if ``norm`` is 1, then ``activation`` ("identity" for none), on ``features`` outputs of a layer like
    ``original``.

    Raises:
        PlanError: There is no such activation.
    """
    if activation not in (*ACTIVATIONS, IDENTITY) or norm not in (0, 1):
        raise PlanError(f"there is no activation {activation!r:.40}", hint=f"choose one of: {', '.join(ACTIVATIONS)}")
    parts: list[nn.Module] = [_dense.norm(original, features)] if norm else []
    if activation != IDENTITY:
        parts.append(ACTIVATIONS[activation]())
    return nn.Sequential(*parts)


def activation_in(names: Iterable[str]) -> str | None:
    """The activation that most of ``names`` (class names, or words of a config) mean, or None where none is known."""
    found = [known for name in names if (known := _known(name)) is not None]
    return max(dict.fromkeys(found), key=found.count) if found else None


def _known(name: str) -> str | None:
    word = name.lower().removesuffix("activation").replace("_", "")
    return {
        "relu": "relu",
        "relu6": "relu6",
        "gelu": "gelu",
        "gelunew": "gelu_tanh",
        "newgelu": "gelu_tanh",
        "gelufast": "gelu_tanh",
        "fastgelu": "gelu_tanh",
        "gelupytorchtanh": "gelu_tanh",
        "pytorchgelutanh": "gelu_tanh",
        "gelutanh": "gelu_tanh",
        "silu": "silu",
        "swish": "silu",
        "hardswish": "hardswish",
        "tanh": "tanh",
    }.get(word)
