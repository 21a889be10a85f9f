"""Architecture → ``nn.Module`` and its example inputs."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sift_cli.core.plan import Architecture, InputSpec
from sift_cli.errors import ModelError
from sift_cli.models.naming import source_of, unknown

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from sift_cli.models.calling import Inputs


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
        given = ", ".join(f"{key}={value!r:.60}" for key, value in architecture.kwargs.items())
        raise ModelError(f"{architecture} does not build with ({given}): {error}") from error
    return model.eval()


def input_specs(architecture: Architecture, shape: tuple[int, ...] | None = None) -> tuple[InputSpec, ...]:
    """The example inputs of an architecture; see :func:`at_shape` for ``shape``.

    Raises:
        ModelError: The architecture does not tell and no shape is given, or it fits none of its inputs.
    """
    return at_shape(source_of(architecture).inputs(architecture.name, architecture.kwargs), shape, str(architecture))


def at_shape(
    specs: tuple[InputSpec, ...] | None, shape: tuple[int, ...] | None, name: str = "the model"
) -> tuple[InputSpec, ...]:
    """The same inputs with ``shape`` for the only one of them, or for those that have as many axes.

    Raises:
        ModelError: None of several has as many, or nothing is known of the inputs at all.
    """
    if specs is None and shape is None:
        raise ModelError(f"{name} does not say what its input looks like", hint="pass --input 1x3x224x224")
    if specs is None or shape is None:
        return specs or (InputSpec(shape or ()),)
    fitting = [spec for spec in specs if len(specs) == 1 or len(spec.shape) == len(shape)]
    if not fitting:
        described = ", ".join(f"{spec.name or 'one'} of {'x'.join(map(str, spec.shape))}" for spec in specs)
        raise ModelError(
            f"no input of the model has {len(shape)} axes; they are {described}",
            hint="pass --input-npz with an array for each input",
        )
    return tuple(replace(spec, shape=shape) if spec in fitting else spec for spec in specs)


def chosen_inputs(
    module: nn.Module,
    specs: tuple[InputSpec, ...] | None,
    shape: tuple[int, ...] | None,
    arrays: Mapping[str, np.ndarray] | None,
    *,
    device: str = "cpu",
    name: str = "the model",
) -> tuple[Inputs, tuple[InputSpec, ...]]:
    """The example inputs of ``module`` and what they are: the arrays of the user, or random ones of ``specs``.

    Raises:
        ModelError: Both a shape and arrays are given, or they do not fit the module.
    """
    from sift_cli.models.calling import draw, map_inputs, specs_of

    if arrays is None:
        specs = at_shape(specs, shape, name)
        return draw(specs, device=device), specs
    if shape is not None:
        raise ModelError("the inputs are given both as a shape and as arrays", hint="leave out --input or --input-npz")
    given = _given(module, arrays)
    return map_inputs(lambda tensor: tensor.to(device), given), specs_of(given)


def example_inputs(
    architecture: Architecture,
    shape: tuple[int, ...] | None = None,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Inputs:
    """Inputs of the given shape, or of the architecture's own, the same for a seed in every process.

    Raises:
        ModelError: No shape is given and the architecture does not tell, or it is a batch, or too large.
    """
    from sift_cli.models.calling import draw

    return draw(input_specs(architecture, shape), device=device, seed=seed)


def _given(module: nn.Module, arrays: Mapping[str, np.ndarray]) -> Inputs:
    """Example inputs from arrays: by the names of ``forward``'s arguments, or ``arr_0``, ``arr_1`` … by position, as
    ``numpy.savez`` calls what has no name.

    Floats become float32, integers int64.

    Raises:
        ModelError: ``forward`` has no such argument, or an array is a batch, or of no such type.
    """
    import torch

    tensors: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        kinds = {"f": "float32", "i": "int64", "u": "int64", "b": "bool"}
        if array.dtype.kind not in kinds or array.ndim < 1:
            raise ModelError(f"the input {name!r} is {array.dtype} with {array.ndim} axes, and not a batch of numbers")
        if array.shape[0] != 1 or not array.size:
            raise ModelError(f"an example input is one sample, and {name!r} has the shape {array.shape}")
        tensors[name] = torch.from_numpy(array.astype(kinds[array.dtype.kind]))
    if not tensors:
        raise ModelError("there is no array among the example inputs")
    if list(tensors) == [f"arr_{index}" for index in range(len(tensors))]:
        return tuple(tensors.values())
    parameters = inspect.signature(module.forward).parameters
    takes = [name for name, kind in parameters.items() if kind.kind in (kind.POSITIONAL_OR_KEYWORD, kind.KEYWORD_ONLY)]
    for name in tensors:
        if name not in takes and not any(kind.kind is kind.VAR_KEYWORD for kind in parameters.values()):
            raise ModelError(f"{type(module).__name__} takes no input {name!r}", hint=f"it takes {', '.join(takes)}")
    return tensors


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
        if getattr(source, "BUILDS_ON_META", False):
            raise
        # Constructors that compute with the values of tensors (torchvision's regnets: widths from torch.arange) cannot
        # run on meta. What is really wrong with the architecture goes wrong here again, with a better message.
        return _moved_to_meta(_build(source, architecture))


def _moved_to_meta(model: nn.Module) -> nn.Module:
    """``model`` on the meta device, with tied weights still tied: ``Module.to`` makes two of them there."""
    moved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the originals too: a dead one's id is given again
    for child in model.modules():
        for holder in (child._parameters, child._buffers):
            for key, tensor in holder.items():
                if tensor is not None:
                    _, holder[key] = moved.setdefault(id(tensor), (tensor, _on_meta(tensor)))  # type: ignore[assignment]
    return model


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    empty = torch.empty_like(tensor, device="meta")
    return torch.nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else empty
