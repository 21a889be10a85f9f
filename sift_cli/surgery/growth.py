"""Where the old values of a tensor are after it grew: in the leading part of each of the equal parts of an axis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sift_cli.core.masks import Mask
from sift_cli.core.plan import ResizeAxis
from sift_cli.errors import PlanError
from sift_cli.sparsity.draw import block_mask


@dataclass(frozen=True)
class Growth:
    """How one tensor grows.

    Attributes:
        name: Its name.
        old, new: Its shape before and after.
        parts: For each axis the number of equal parts that grow on their own.
    """

    name: str
    old: tuple[int, ...]
    new: tuple[int, ...]
    parts: tuple[int, ...]

    @classmethod
    def none(cls, name: str, shape: Iterable[int]) -> Self:
        """Of a tensor that stays as it is."""
        shape = tuple(shape)
        return cls(name, shape, shape, (1,) * len(shape))

    @classmethod
    def of(cls, name: str, shape: Iterable[int], edits: Iterable[ResizeAxis]) -> Self:
        """Of a tensor of ``shape`` by ``edits``, all of which are for it.

        Raises:
            PlanError: They are for another shape.
        """
        old = tuple(shape)
        new, parts = list(old), [1] * len(old)
        for edit in edits:
            if not 0 <= edit.axis < len(old) or new[edit.axis] != edit.old or edit.new < edit.old:
                raise PlanError(
                    f"the plan grows axis {edit.axis} of {name!r} from {edit.old} to {edit.new}, but its shape is {old}"
                )
            new[edit.axis], parts[edit.axis] = edit.new, edit.parts
        return cls(name, old, tuple(new), tuple(parts))

    def place(self, values: Tensor) -> Tensor:
        """A tensor of the new shape with the old values in their places, and 0 elsewhere.

        Raises:
            PlanError: There is not the memory.
        """
        try:
            result = torch.zeros(self.new, dtype=values.dtype, device=values.device)
        except RuntimeError:
            shape = list(self.new)
            raise PlanError(f"the plan makes {self.name!r} {shape}, for which there is not the memory") from None
        # Each axis as two, (part, place in it): the old values are a leading block there.
        split = [size for pair in zip(self.parts, self.old, strict=True) for size in (pair[0], pair[1] // pair[0])]
        blocks = result.view([s for p, n in zip(self.parts, self.new, strict=True) for s in (p, n // p)])
        blocks[tuple(slice(0, size) for size in split)] = values.detach().reshape(split)
        return result

    def grown(self, tensor: Tensor, axis: int) -> Tensor:
        """A view of the entries of ``tensor``, of the new shape, that are new along ``axis``."""
        parts, old, new = self.parts[axis], self.old[axis], self.new[axis]
        if parts == 1:
            return tensor.narrow(axis, old, new - old)
        return tensor.unflatten(axis, (parts, new // parts)).narrow(axis + 1, old // parts, (new - old) // parts)

    def mask(self) -> Mask:
        """The mask that keeps the old values."""
        return block_mask(self.new, self.old, self.parts)
