"""How a module is called: on tensors by position or by keyword, of any type, and which of its outputs are meant."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sift_cli.core.plan import InputSpec
from sift_cli.errors import ModelError

#: By position, or by keyword.
Inputs: TypeAlias = tuple[Tensor, ...] | dict[str, Tensor]

#: Values of all example inputs together: 1 GB of float32. A file's metadata can name any shape.
MAX_INPUT = 2**28
#: Keys of the output that a user means, where a model returns several by name: transformers', torchvision's.
_MEANT = ("logits", "out")


def call(module: nn.Module | Callable[..., Any], inputs: Inputs) -> Any:
    """``module`` on ``inputs``; a module keeps its buffers."""
    with own_buffers(module) if isinstance(module, nn.Module) else contextlib.nullcontext(), _one_sequence(inputs):
        return module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)


@contextlib.contextmanager
def own_buffers(module: nn.Module) -> Iterator[None]:
    """Put back the buffers that a run replaces: what timm's ConViT keeps in one for the next run is no part of it."""
    before = [(child._buffers, dict(child._buffers)) for child in module.modules()]
    try:
        yield
    finally:
        for buffers, own in before:
            buffers.clear()
            buffers.update(own)


@contextlib.contextmanager
def _one_sequence(inputs: Inputs) -> Iterator[None]:
    """Without what transformers' models look for in the values of their tokens: padding to warn of, and several
    sequences in one sample, which can only be there where positions are an input.

    Meta tensors have no values, and in a traced graph, where they may not be read, the search becomes a mask that is
    gathered by positions, whose shape ONNX does not infer.
    """
    masking, modeling = (sys.modules.get(f"transformers.{name}") for name in ("masking_utils", "modeling_utils"))
    kind = getattr(modeling, "PreTrainedModel", None)
    searches = [(kind, "warn_if_padding_and_no_attention_mask")]
    if not (isinstance(inputs, Mapping) and "position_ids" in inputs):
        searches.append((masking, "find_packed_sequence_indices"))
    found = [(where, name, getattr(where, name)) for where, name in searches if hasattr(where, name)]
    try:
        for where, name, _ in found:
            setattr(where, name, lambda *args: None)
        yield
    finally:
        for where, name, search in found:
            setattr(where, name, search)


def tensors_of(inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors alone, in order."""
    return tuple(inputs.values()) if isinstance(inputs, Mapping) else inputs


def names_of(inputs: Inputs) -> tuple[str, ...] | None:
    """The keywords, or None for inputs by position."""
    return tuple(inputs) if isinstance(inputs, Mapping) else None


def map_inputs(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """``function`` of every tensor, under the same names."""
    return named(names_of(inputs), (function(tensor) for tensor in tensors_of(inputs)))


def named(names: Iterable[str] | None, tensors: Iterable[Tensor]) -> Inputs:
    """Inverse of :func:`names_of` and :func:`tensors_of`."""
    return tuple(tensors) if names is None else dict(zip(names, tensors, strict=True))


def primary(output: Any) -> tuple[Tensor, ...]:
    """The tensors of an output that a user means.

    A tensor is itself; of a tuple or list, all; of outputs by name (a dict, a ``ModelOutput``, a dataclass), the one
    called ``logits`` or ``out``, else the first that has a tensor. Empty where there is none.
    """
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, Mapping):
        values = [output[key] for key in _MEANT if key in output] or list(output.values())
        return next(filter(None, map(primary, values)), ())
    if isinstance(output, list | tuple):
        return tuple(tensor for item in output for tensor in primary(item))
    return primary(vars(output)) if is_dataclass(output) else ()


def specs_of(inputs: Inputs) -> tuple[InputSpec, ...]:
    """What ``inputs`` are. Integers with values are taken to come from below the largest one, on meta from anywhere."""
    return tuple(
        InputSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), name, _high(tensor))
        for name, tensor in zip(names_of(inputs) or [None] * len(inputs), tensors_of(inputs), strict=True)
    )


def draw(specs: Iterable[InputSpec], *, device: str | torch.device = "cpu", seed: int = 0) -> Inputs:
    """Example inputs: floats are standard normal, integers from below ``high`` (0 without one), bools all True; the
    same for a seed in every process.

    Raises:
        ModelError: One of them is a batch, or they are too large.
    """
    specs = tuple(specs)
    for spec in specs:
        if spec.shape[0] != 1:
            raise ModelError(
                f"an example input is one sample, and {written(spec.shape)} is a batch of {spec.shape[0]}",
                hint=f"pass --input {written((1, *spec.shape[1:]))}",
            )
    if (values := sum(math.prod(spec.shape) for spec in specs)) > MAX_INPUT:
        raise ModelError(f"an example input of {values:,} values is too large", hint=f"at most {MAX_INPUT:,}")
    random = torch.Generator().manual_seed(seed)
    on_meta = torch.device(device).type == "meta"
    tensors = [
        torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta")
        if on_meta
        else _drawn(spec, random).to(device)
        for spec in specs
    ]
    names = [spec.name for spec in specs if spec.name is not None]
    return named(names or None, tensors)


def random_like(inputs: Inputs, batch: int, *, seed: int, dtype: torch.dtype | None = None) -> Inputs:
    """Other inputs of the same kind, ``batch`` samples of them.

    Floats are standard normal, in ``dtype`` if one is given. Integers and bools are those of the example, its positions
    in another order for each sample: any values that a model accepts, it accepts so, whatever they mean.
    """
    random = torch.Generator().manual_seed(seed)

    def other(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(batch, *tensor.shape[1:], generator=random, dtype=dtype or tensor.dtype)
        if tensor.dim() < 2:
            return tensor[:1].repeat(batch)
        orders = [torch.randperm(tensor.shape[1], generator=random) for _ in range(batch)]
        return torch.stack([tensor[0, order] for order in orders])

    return map_inputs(other, inputs)


def written(shape: Iterable[int]) -> str:
    """A shape as ``--input`` takes it."""
    return "x".join(map(str, shape))


def _drawn(spec: InputSpec, random: torch.Generator) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        return torch.randn(spec.shape, dtype=dtype, generator=random)
    if dtype is torch.bool:
        return torch.ones(spec.shape, dtype=dtype)
    return torch.randint(spec.high or 1, spec.shape, dtype=dtype, generator=random)


def _high(tensor: Tensor) -> int | None:
    if tensor.is_floating_point() or tensor.dtype is torch.bool or tensor.is_meta or not tensor.numel():
        return None
    high = int(tensor.max()) + 1
    return high if 0 < high < 2**31 else None
