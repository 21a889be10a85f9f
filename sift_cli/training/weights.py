"""One masked weight while it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sift_cli.core.seeds import generator
from sift_cli.errors import ModelError
from sift_cli.sparsity.patterns import Gemm, parse
from sift_cli.surgery import PackedMask
from sift_cli.surgery.packed import pack
from sift_cli.training.distributed import Replicas, is_sharded, local, part_of, whole
from sift_cli.training.names import plain_name
from sift_cli.training.rules import Layer, MaskUpdate


class MaskedWeight:
    """A parameter, its mask, and the gradient of the weights that the mask does not keep.

    Its gradient is masked as soon as it has accumulated, in each backward pass. So everything between ``backward()``
    and ``step()`` sees the gradient of the sparse model: the norm that clipping takes, the check of a gradient scaler,
    the average of DDP. What the mask takes away is gone, except before an update that asks for it: then it is put
    aside, added up over the backward passes of the step.

    Args:
        name: Name of the weight in the model without wrappers.
        parameter: The weight; a shard of it under FSDP2.
        mask: The mask that the model carries; of the shard.
        collect: Whether the coming step needs the gradient of the weights that are not kept.
    """

    def __init__(self, name: str, parameter: nn.Parameter, mask: PackedMask, collect: Callable[[], bool]) -> None:
        self.name, self.parameter, self.mask = name, parameter, mask
        self.pattern, self.gemm = parse(mask.pattern), Gemm(mask.parameter_shape, mask.output_axis)
        self.numel = parameter.numel()
        self.kept = int(self.whole_mask().count_nonzero())
        self._collect = collect
        self._outside: Tensor | None = None
        self._outside_of: Tensor | None = None
        self._masked: tuple[Tensor, int] | None = None  # the gradient that was masked last, and its version then
        self._hook = parameter.register_post_accumulate_grad_hook(self._accumulated)

    def _accumulated(self, parameter: Tensor) -> None:
        gradient = local(parameter.grad)
        if self._collect():
            now = gradient.clone()
            self.mask.clear_inside([now])
            # A gradient that is another object than last time was set to None in between: nothing of it counts.
            first = self._outside is None or self._outside_of is not parameter.grad
            self._outside = now if first else self._outside.add_(now)  # type: ignore[union-attr]
            self._outside_of = parameter.grad
        self.mask.clear_outside([gradient])
        self._masked = parameter.grad, parameter.grad._version  # type: ignore[union-attr, assignment]

    def clear_gradient(self, *, always: bool = False) -> None:
        """Mask the gradient, if that is not what happened to it last: it may have been set by hand.

        Args:
            always: Do it in any case: what comes from other processes leaves no trace, and may have been compressed.
        """
        gradient = self.parameter.grad
        if gradient is None:
            return
        untouched = self._masked is not None and self._masked[0] is gradient and self._masked[1] == gradient._version
        if always or is_sharded(gradient) or not untouched:
            self.mask.clear_outside([local(gradient)])

    def clear(self, state: Mapping[str, Any]) -> None:
        """Make the weight, and what the optimizer keeps for it in its shape, 0 outside the mask."""
        self.mask.clear_outside(self._tensors(state))

    def _tensors(self, state: Mapping[str, Any]) -> list[Tensor]:
        shape = self.parameter.shape
        slots = (slot for slot in state.values() if isinstance(slot, Tensor) and slot.shape == shape)
        return [local(self.parameter), *map(local, slots)]

    def finite(self) -> Tensor:
        """Whether all that the next update would look at is finite here, a 0-d bool tensor."""
        tensors = [local(self.parameter), *([] if self._outside is None else [self._outside])]
        return torch.stack([tensor.isfinite().all() for tensor in tensors]).all()

    def forget(self) -> None:
        """Let go of the gradient that was put aside."""
        self._outside = self._outside_of = self._masked = None

    def whole_mask(self) -> Tensor:
        """The mask, bool, also of a sharded weight. Every process has to ask for it."""
        return whole(self.mask.kept(), self.parameter)

    def layer(self, *, gradient: bool, fraction: float, target: int, seed: int, step: int, replicas: Replicas) -> Layer:
        """The weight as its rule sees it, the same in every process. Every process has to ask for it."""
        outside = None
        if gradient:
            outside = torch.zeros_like(local(self.parameter)) if self._outside is None else self._outside
            outside = whole(outside, self.parameter) if is_sharded(self.parameter) else replicas.sum(outside)
        return Layer(
            weight=whole(local(self.parameter), self.parameter),
            mask=self.whole_mask(),
            gradient=outside,
            fraction=fraction,
            target=target,
            random=generator(seed, self.name, f"update {step}"),
            pattern=self.pattern,
            gemm=self.gemm,
        )

    def apply(self, layer: Layer, update: MaskUpdate, state: Mapping[str, Any]) -> Tensor:
        """Carry out an update; returns the whole new mask, bool."""
        kept = layer.mask & ~update.dropped | update.grown
        self.set_mask(kept)
        self.clear(state)
        self.clear_gradient(always=True)
        if isinstance(update.value, Tensor) or update.value:
            grown = part_of(update.grown, self.parameter)
            values = torch.as_tensor(update.value, dtype=layer.weight.dtype, device=layer.weight.device)
            start = part_of(values.expand_as(update.grown).contiguous(), self.parameter)
            local(self.parameter)[grown] = start[grown]
        return kept

    def set_mask(self, kept: Tensor) -> None:
        """Make ``kept``, whole and bool, the mask that the model carries."""
        self.mask.set(part_of(kept, self.parameter))
        self.kept = int(kept.count_nonzero())

    def remove(self) -> None:
        """Leave the gradient alone from now on."""
        self._hook.remove()
        self.forget()


def check_fits(name: str, parameter: nn.Parameter, kept: Tensor) -> None:
    """Refuse a mask that would take values from a weight which is as sparse already, but elsewhere.

    That is a run that goes on, whose weights were loaded first: with other masks all would seem well, and little of
    what was learnt be left.

    Raises:
        ModelError: It is that.
    """
    there = whole(local(parameter), parameter) != 0
    kept = kept.to(there.device)
    if 0 < there.count_nonzero() <= kept.count_nonzero() < kept.numel() and bool((there & ~kept).any()):
        raise ModelError(
            f"{name} has {kept.numel() - int(there.count_nonzero()):,} zeros already, and its mask lies elsewhere",
            hint="to go on with a run, call sparsify first and load the states of model and optimizer after it",
        )


def check_free(model: nn.Module, names: Iterable[str]) -> None:
    """Refuse weights that a Sparsifier holds already: two would move one mask by turns.

    Raises:
        ModelError: One of these weights of ``model`` is held.
    """
    for name in names:
        hooks = model.get_parameter(name)._post_accumulate_grad_hooks or {}
        if any(isinstance(getattr(hook, "__self__", None), MaskedWeight) for hook in hooks.values()):
            raise ModelError(
                f"a Sparsifier holds the mask of {plain_name(model, name)} already",
                hint="call remove() of what sparsify returned, and then sparsify again",
            )


def sharded(mask: PackedMask, parameter: nn.Parameter) -> PackedMask:
    """``mask`` as it has to be to lie on ``parameter``: a shard of it, where that is one."""
    if not is_sharded(parameter) or mask.whole is not None:
        return mask
    part = part_of(mask.kept(), parameter)
    return PackedMask(pack(part), tuple(part.shape), mask.pattern, mask.output_axis, mask.shape)
