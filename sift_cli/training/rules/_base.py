"""What a rule is given, what it gives back, and the two moves that rules are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sift_cli.sparsity.patterns import Gemm, Pattern

#: Places of a mask under a pattern are ranked in tiers: first what stays, then what may come, last what was dropped.
#: The gap is so wide that no sum over a tile of 99 × 99 would trade one that stays for several that may come.
_STAYS, _MAY_COME = 2.0**16, 2.0


@dataclass(frozen=True)
class MaskUpdate:
    """A change of one mask. The optimizer's state of a grown weight is 0, as it is wherever a mask has been.

    Attributes:
        dropped: Bool, shape of the weight: kept before, and not any more.
        grown: Bool, shape of the weight: kept from now on, and not before.
        value: What grown weights start from, a number or a tensor of the weight's shape.
    """

    dropped: Tensor
    grown: Tensor
    value: Tensor | float = 0.0


@dataclass(frozen=True)
class Layer:
    """One sparse weight at an update, whole, all values finite.

    Attributes:
        weight: The weight, 0 where the mask is False.
        mask: Bool, shape of the weight.
        gradient: Gradient of the loss for the weights that the mask does not keep, 0 where it does, up to a positive
            factor that all layers have in common; None if the rule does not use it.
        fraction: Share of the kept weights to exchange.
        target: Weights to keep after the update, a number that the pattern allows.
        random: Generator of this weight at this step.
        pattern, gemm: Where kept weights may lie.
    """

    weight: Tensor
    mask: Tensor
    gradient: Tensor | None
    fraction: float
    target: int
    random: np.random.Generator
    pattern: Pattern
    gemm: Gemm

    def nothing(self) -> MaskUpdate:
        """The mask stays as it is."""
        return MaskUpdate(torch.zeros_like(self.mask), torch.zeros_like(self.mask))

    def exchange(self, scores: Tensor) -> MaskUpdate:
        """Drop ``⌊fraction · kept⌋`` weights, the smallest, and grow to ``target`` where ``scores`` are highest.

        What is dropped does not grow again at once. Where fewer places are free than would be dropped, fewer are
        dropped; a pattern may keep some, too, where it has no other place for them.

        Args:
            scores: Not negative, shape of the weight; looked at where the mask is False.
        """
        keep = min(self.nonzero - int(self.fraction * self.nonzero), self.target)
        grow = min(self.target - keep, self.mask.numel() - self.nonzero)
        keep = self.target - grow
        if self.pattern.name != "unstructured":
            return self._exchange_in_pattern(keep, scores)
        kept = self._largest(keep)
        grown = highest(scores.masked_fill(self.mask, -torch.inf), grow)
        return MaskUpdate(self.mask & ~kept, grown)

    def prune(self) -> MaskUpdate:
        """Drop the smallest weights down to ``target``, and grow none."""
        kept = self._kept_in_pattern(min(self.target, self.nonzero))
        return MaskUpdate(self.mask & ~kept, torch.zeros_like(self.mask))

    @cached_property
    def nonzero(self) -> int:
        """Weights that are kept now."""
        return int(self.mask.count_nonzero())

    def uniform(self) -> Tensor:
        """Random numbers in [0, 1), float64, shape of the weight, on its device."""
        # From raw bits, as only their stream is promised to stay the same in later versions of numpy.
        raw = self.random.bit_generator.random_raw(self.weight.numel()) >> np.uint64(11)
        return torch.from_numpy(raw.astype(np.float64) * 2.0**-53).view(self.weight.shape).to(self.weight.device)

    def _largest(self, count: int) -> Tensor:
        return highest(self.weight.abs().float().masked_fill(~self.mask, -torch.inf), count)

    def _kept_in_pattern(self, count: int) -> Tensor:
        """At least ``count`` of the kept weights, the largest; whole blocks where the pattern is made of such."""
        feasible = self.pattern.feasible(self.gemm)
        if len(feasible) == 1 or self.pattern.name == "unstructured":
            return self._largest(count)
        more = feasible[max(0, -((feasible.start - count) // feasible.step))]
        return self._select(torch.where(self.mask, 1 + _relative(self.weight), 0), more)

    def _exchange_in_pattern(self, keep: int, scores: Tensor) -> MaskUpdate:
        kept = self._kept_in_pattern(keep)
        tiers = torch.where(self.mask, _relative(self.weight), _MAY_COME + _relative(scores))
        new = self._select(tiers + _STAYS * kept, self.target)
        return MaskUpdate(self.mask & ~new, new & ~self.mask)

    def _select(self, scores: Tensor, count: int) -> Tensor:
        chosen = self.pattern.select(self.gemm, scores.cpu().numpy(), count).to_bool()
        return torch.from_numpy(chosen).to(self.mask.device)


def highest(scores: Tensor, count: int) -> Tensor:
    """True at the ``count`` highest of ``scores``, which have no NaN; of equal ones the first are taken.

    By the threshold and not by ``topk``, which takes nine times as long and may choose other ones of equal scores on
    another device.
    """
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    flat = scores.reshape(-1)
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    chosen = flat > threshold
    ties = (flat == threshold).nonzero().view(-1)
    chosen[ties[: count - int(chosen.count_nonzero())]] = True
    return chosen.view(scores.shape)


def _relative(values: Tensor) -> Tensor:
    """Magnitudes as float64 parts of the largest one."""
    magnitudes = values.abs().double()
    largest = magnitudes.max()
    return magnitudes / torch.where(largest > 0, largest, 1)
