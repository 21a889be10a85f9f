"""A stand-in for a module that may be run, hooked and thrown away in its place."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sift_cli.errors import ModelError
from sift_cli.models.calling import Inputs, call, map_inputs, named

Stand = Literal["meta", "fake", "cpu"]


def shadow(module: nn.Module, device: Stand) -> nn.Module:
    """A copy of ``module`` in eval mode that shares no tensor with it.

    On "meta" no tensor has data, nor has it on "fake", which is for use within a ``FakeTensorMode``. On "cpu"
    parameters are zeros, which the system hands out without touching memory and which cannot hide a denormal that slows
    the arithmetic down, and all other tensors (index tables, masks, shapes) are copies, because a forward pass may read
    them.

    Raises:
        ModelError: The module holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for owner in module.modules():
        # Of any kind, also in lists and dictionaries: a weight that a hook computes (torch.nn.utils.prune) is a plain
        # attribute and no leaf, which deepcopy refuses, and on "fake" it refuses whatever has data.
        for tensor in tree_leaves(vars(owner)):
            if isinstance(tensor, Tensor):
                memo.setdefault(id(tensor), _stand_in(tensor, device))
    try:
        return copy.deepcopy(module, memo).eval()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{type(module).__name__} cannot be copied in order to count it: {error}") from error


def shadow_inputs(inputs: Inputs, device: Stand) -> Inputs:
    """Copies of ``inputs`` on ``device``; an input without data becomes zeros."""
    return map_inputs(lambda tensor: _stand_in(tensor, device), inputs)


def keep_all_results(copy: nn.Module, names: Iterable[str] | None = None) -> None:
    """Make a shadow return the tensors of its output and of every module in it, as a flat tuple, and take its inputs
    by position, in the order of ``names`` where it has them by keyword.

    ``torch.jit.trace`` knows no dataclass, and it drops what no output needs: a head whose result is thrown away, or
    one that comes in an object the tracer cannot look into, would cost nothing.
    """
    results: list[Tensor] = []
    for module in copy.modules():
        module.register_forward_hook(lambda module, inputs, output: results.extend(_tensors(output)))
    forward = copy.forward

    def flat(*inputs: Tensor) -> tuple[Tensor, ...]:
        results.clear()
        return (*_tensors(call(forward, named(names, inputs))), *results)

    copy.forward = flat


@contextmanager
def inference(*, onednn: bool = True) -> Iterator[None]:
    """No gradients, and no fused transformer layers.

    In eval mode without gradients torch replaces a whole ``TransformerEncoderLayer`` by one operator, and a ViT-B/16
    then counts 36 % too low. ``onednn=False`` does the same for an LSTM on a CPU; it makes convolutions slow.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    # It is a property of a module object, which a type checker takes for its descriptor.
    mkldnn: Any = torch.backends.mkldnn
    was_on = mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    mkldnn.enabled = was_on and onednn
    try:
        with torch.no_grad():
            yield
    finally:
        mkldnn.enabled = was_on
        torch.backends.mha.set_fastpath_enabled(fused)


def first_line(error: Exception) -> str:
    """What went wrong in a foreign forward pass, without the stack that torch puts into its messages."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
    elif is_dataclass(output):
        yield from _tensors(vars(output))


def _stand_in(tensor: Tensor, device: str) -> Tensor:
    if device == "meta":
        stand_in = torch.empty_like(tensor, device="meta", requires_grad=False)
    elif device == "fake":
        stand_in = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    elif isinstance(tensor, nn.Parameter) or tensor.is_meta:
        stand_in = torch.zeros_like(tensor, device=device, requires_grad=False)
    else:
        stand_in = tensor.detach().to(device, copy=True)
    return nn.Parameter(stand_in, requires_grad=False) if isinstance(tensor, nn.Parameter) else stand_in
