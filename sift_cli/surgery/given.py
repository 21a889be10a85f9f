"""Masks that come from a file: another artifact, a sparse checkpoint, or tensors of bools.

A plan knows such masks by their digest alone. Which file they are in, only who carries it out can say, so no plan can
have a file opened.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from sift_cli.checkpoint import Checkpoint, open_checkpoint, stripped
from sift_cli.checkpoint.sidebands import as_bools
from sift_cli.core.masks import Mask
from sift_cli.core.plan import AttachMask, TransformPlan
from sift_cli.errors import PlanError

_SUFFIX = "_mask"


class GivenMasks(Mapping[str, Mask]):
    """Masks by the names of their weights, read from a file when they are asked for.

    The mask of ``w`` is the mask that ``w`` is stored with; else the tensor ``w_mask``, as Cerebras' checkpoints have
    it; else ``w`` itself: where it is bool, its values, and where it is not, what is neither 0 nor NaN.

    Args:
        path: Any file that sift reads without running code.

    Raises:
        CheckpointError: It is none.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        whole = open_checkpoint(self.path)
        self._views: tuple[Checkpoint, ...] = (whole, stripped(whole))

    def __getitem__(self, name: str) -> Mask:
        for view in self._views:
            if name in view.tensors and (mask := view.mask(name)) is not None:
                return mask
            if f"{name}{_SUFFIX}" in view.tensors:
                return Mask.from_bool(as_bools(view, f"{name}{_SUFFIX}"))
            if name in view.tensors:
                values = view.read(name)
                return Mask.from_bool(values if values.dtype == np.bool_ else (values != 0) & (values == values))
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter({name.removesuffix(_SUFFIX): None for view in self._views for name in view.tensors})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def bind(plan: TransformPlan, given: GivenMasks) -> TransformPlan:
    """``plan`` with the digests of the masks that it takes from ``given``.

    Raises:
        PlanError: A mask is missing, or keeps another number of weights than the plan has for it.
    """
    sizes = {layer.weight: layer.numel_after for layer in plan.layers}
    edits = []
    for edit in plan.edits:
        if isinstance(edit, AttachMask) and edit.rule == "file":
            mask = given.get(edit.tensor)
            if mask is None:
                close = difflib.get_close_matches(edit.tensor, given, n=1)
                raise PlanError(
                    f"{given.path} has no mask for {edit.tensor!r}", hint=f"it has {close[0]!r}" if close else None
                )
            if (mask.nonzero, mask.numel) != (edit.nonzero, sizes[edit.tensor]):
                raise PlanError(
                    f"the mask of {edit.tensor!r} in {given.path} keeps {mask.nonzero:,} of {mask.numel:,} weights, "
                    f"and the plan {edit.nonzero:,} of {sizes[edit.tensor]:,}",
                    hint="give a file that was made with these options, or drop --mask",
                )
            edit = replace(edit, digest=mask.digest)
        edits.append(edit)
    return replace(plan, edits=tuple(edits))
