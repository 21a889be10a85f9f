"""Architecture → ``nn.Module`` and its example inputs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sift_cli.core.plan import Architecture
from sift_cli.errors import ModelError
from sift_cli.models.naming import source_of, unknown

#: Values of an example input: 1 GB of float32. A file's metadata can name any shape.
MAX_INPUT = 2**28

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def build(architecture: Architecture, *, device: str | torch.device = "cpu", seed: int | None = None) -> nn.Module:
    """The model, in eval mode, with its architecture's own random weights.

    Args:
        architecture: What to build.
        device: Where to. On "meta" it has shapes and no values, and takes no memory. The weights of a seed are drawn on
            the CPU, so they are the same on every device.
        seed: Seed of the weights; the same seed gives the same weights in every process, and the global random state is
            left alone. None draws from the global random state.

    Raises:
        UnknownArchitecture: Its source has no such name.
        MissingExtra: Its source needs a package that is not installed.
        ModelError: It does not build, most often because of its arguments.
    """
    import torch

    source = source_of(architecture)
    if not source.has(architecture.name):
        raise unknown(architecture)
    on_meta = torch.device(device).type == "meta"
    try:
        with _seeded(seed):
            model = _build_on_meta(source, architecture) if on_meta else _build(source, architecture).to(device)
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in architecture.kwargs.items())
        raise ModelError(f"{architecture} does not build with ({given}): {error}") from error
    return model.eval()


def input_shape(architecture: Architecture) -> tuple[int, ...]:
    """Shape of one input, batch dimension included.

    Raises:
        ModelError: The architecture does not tell.
    """
    shape: tuple[int, ...] | None = source_of(architecture).input_shape(architecture.name, architecture.kwargs)
    if shape is None:
        raise ModelError(f"{architecture} does not say what its input looks like", hint="pass --input 1x3x224x224")
    return shape


def example_inputs(
    architecture: Architecture,
    shape: tuple[int, ...] | None = None,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> tuple[Tensor, ...]:
    """Inputs of the given shape, or of the architecture's own: standard normal, the same for a seed in every process.

    Raises:
        ModelError: No shape is given and the architecture does not tell, or it is a batch, or too large.
    """
    import torch

    shape = shape or input_shape(architecture)
    if shape[0] != 1:
        raise ModelError(
            f"an example input is one sample, and {'x'.join(map(str, shape))} is a batch of {shape[0]}",
            hint=f"pass --input {'x'.join(map(str, (1, *shape[1:])))}",
        )
    if math.prod(shape) > MAX_INPUT:
        raise ModelError(f"an example input of {math.prod(shape):,} values is too large", hint=f"at most {MAX_INPUT:,}")
    if torch.device(device).type == "meta":
        return (torch.empty(shape, device="meta"),)
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device),)


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _build(source: Any, architecture: Architecture) -> nn.Module:
    model: nn.Module = source.build(architecture.name, **architecture.kwargs)
    return model


def _build_on_meta(source: Any, architecture: Architecture) -> nn.Module:
    import torch

    try:
        with torch.device("meta"):
            return _build(source, architecture)
    except Exception:
        # Constructors that compute with the values of tensors (torchvision's regnets: widths from torch.arange) cannot
        # run on meta. What is really wrong with the architecture goes wrong here again, with a better message.
        return _build(source, architecture).to("meta")
