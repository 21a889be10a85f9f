"""A checkpoint as it is to be written: names, element types, and every mask wherever the file keeps it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sift_cli.checkpoint import sidebands
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.folder import MASKS, FolderCheckpoint
from sift_cli.core.half import STORED, Storage, is_matrix, stored_as
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPE_NAMES, DTYPES, TensorSpec, as_bits
from sift_cli.errors import CheckpointError, PlanError

#: Elements that are looked at at once; a multiple of 8.
_CHUNK = 2**20


class Source:
    """The tensors of ``checkpoint`` under the names and in the element types that they are to have.

    Args:
        checkpoint: What is converted.
        dtype: What floating-point tensors become; None leaves them.
        rename: Patterns and what each replaces, in every name, one after another.
        pruned_nan: NaN in a matrix stands for a pruned weight.

    Attributes:
        tensors: By their new names, in the order of the file; without those that are masks.
        masked: Those of them that have a mask.

    Raises:
        CheckpointError: A mask is none, or of no tensor: a model can have other names than the files of its folder.
        PlanError: Two tensors would have one name.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: Storage | None = None,
        rename: Sequence[tuple[str, str]] = (),
        pruned_nan: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self._dtype = dtype
        if isinstance(checkpoint, FolderCheckpoint) and (apart := checkpoint.masks.keys() - checkpoint.tensors.keys()):
            raise CheckpointError(
                f"{checkpoint.path / MASKS} has a mask of {min(apart)!r}, and no tensor of the folder is called so",
                hint=f"without {MASKS}, --min-sparsity takes the zeros of a matrix for its mask",
            )
        found = sidebands.find(checkpoint, in_values=pruned_nan)
        weights = {name: weight for kind in found.values() for name, weight in kind.items()}
        plain = {weight.values: name for name, weight in weights.items()}
        masks = {weight.mask for weight in weights.values()}
        old = {plain.get(stored, stored): stored for stored in checkpoint.tensors if stored not in masks}
        new = {name: _renamed(name, rename) for name in old}
        for name, count in Counter(new.values()).items():
            if count > 1:
                both = [repr(before) for before, after in new.items() if after == name]
                raise PlanError(f"--rename calls {' and '.join(both[:2])} both {name!r}", hint="use another pattern")
        self._old = {new[name]: stored for name, stored in old.items()}
        self._weights = {new[name]: weight for name, weight in weights.items()}
        self.masked = frozenset(self._weights)
        self.tensors = {name: self._spec(name, checkpoint.tensors[stored]) for name, stored in self._old.items()}
        #: Whether names and numbers are the file's own, so that what it says of itself stays true.
        self.unchanged = all(new == stored for new, stored in self._old.items()) and all(
            spec.dtype == checkpoint.tensors[self._old[name]].dtype for name, spec in self.tensors.items()
        )

    def _spec(self, name: str, spec: TensorSpec) -> TensorSpec:
        kept = self._weights[name].kept if name in self._weights else None
        dtype = DTYPE_NAMES[STORED[self._dtype]] if self._dtype and spec.is_floating_point else spec.dtype
        return replace(spec, name=name, dtype=dtype, nonzero=kept)

    def size(self, name: str) -> int:
        """Bytes of a tensor, dense or as it is in the file, whichever are more."""
        spec = self.checkpoint.tensors[self._old[name]]
        return max(spec.dense_bytes, spec.stored_bytes)

    def takes(self, name: str) -> int:
        """Bytes of memory that reading a tensor takes: it, what it is made of, its mask, and what it is cast to."""
        spec, dtype = self.checkpoint.tensors[self._old[name]], self.tensors[name].dtype
        cast = self.tensors[name].dense_bytes if dtype != spec.dtype else 0
        if spec.nonzero is not None:
            return spec.dense_bytes + spec.stored_bytes + spec.numel + cast
        return spec.dense_bytes + (2 * spec.numel if name in self._weights else 0) + cast

    def mask(self, name: str, least: float | None) -> Mask | None:
        """The mask of a tensor; of a matrix without one that of its zeros, if a share of ``least`` or more are zeros.

        Args:
            least: None makes no masks of zeros.

        Raises:
            Malformed: Its bytes do not decode.
        """
        spec = self.tensors[name]
        if name in self._weights:
            return self.checkpoint.mask(self._old[name]) or Mask.from_bool(self._weights[name].read()[1])
        if least is None or not spec.is_floating_point or not is_matrix(spec.shape):
            return None
        mask = of_nonzeros(self.checkpoint.read(self._old[name]))
        return mask if spec.numel - mask.nonzero >= least * spec.numel else None

    def read(self, name: str, *, masked: bool) -> tuple[np.ndarray, Mask | None]:
        """The values of a tensor, cast, +0 where its mask keeps nothing, and the mask.

        Args:
            masked: Whether :meth:`mask` said that it has one.

        Raises:
            Malformed: Its bytes do not decode.
            ExportError: A number is beyond the range of the type that it is cast to.
        """
        mask = self.checkpoint.mask(self._old[name])
        if mask is None and name in self._weights:
            values, kept = self._weights[name].read()
            mask = Mask.from_bool(kept)
        else:
            values = self.checkpoint.read(self._old[name])
            if mask is None and masked:
                mask = of_nonzeros(values)
        if name in self._weights and mask is not None:
            _zero(values, mask)
        if values.dtype != DTYPES[self.tensors[name].dtype]:
            assert self._dtype is not None
            values = stored_as(name, values, self._dtype)
        return values, mask


def _renamed(name: str, rename: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rename:
        try:
            name = re.sub(pattern, replacement, name)
        except (re.error, IndexError) as error:
            raise PlanError(f"--rename {pattern!r} {replacement!r} does not work: {error}") from None
    if not name:
        raise PlanError("--rename leaves a tensor without a name", hint="use another pattern")
    return name


def _zero(values: np.ndarray, mask: Mask) -> None:
    """+0 in the place of what the mask does not keep, and of −0 there."""
    flat = values.reshape(-1)
    assert np.shares_memory(flat, values)
    for start, kept in mask.runs():
        np.putmask(flat[start : start + kept.size], ~kept, values.dtype.type(0))


def of_nonzeros(values: np.ndarray) -> Mask:
    """A mask of all that is not +0: −0 is kept, so that nothing is lost."""
    flat = as_bits(np.ascontiguousarray(values).reshape(-1))
    bits = np.empty(-(-flat.size // 8), np.uint8)
    for start in range(0, flat.size, _CHUNK):
        packed = np.packbits(flat[start : start + _CHUNK] != 0, bitorder="little")
        bits[start // 8 : start // 8 + packed.size] = packed
    return Mask(values.shape, bits, rule="file")
