"""What differs between two files with tensors in them, tensor by tensor, to the bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sift_cli.analysis.elements import CHUNK, Elements, elements
from sift_cli.analysis.kept import beside
from sift_cli.analysis.layers import LEAST_SPARSITY
from sift_cli.analysis.overlap import Overlap
from sift_cli.checkpoint import Checkpoint, open_checkpoint
from sift_cli.checkpoint.disk import bytes_on_disk
from sift_cli.checkpoint.sidebands import Masked
from sift_cli.core.counts import FlopReport
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import TensorSpec
from sift_cli.errors import Malformed

SCHEMA = "sift.diff/1"
Change = Literal["same", "added", "removed", "reshaped", "retyped", "changed"]


@dataclass(frozen=True)
class TensorDifference:
    """One name.

    Attributes:
        name: Of the tensor.
        change: "same", or the first that holds of: added, removed, reshaped, retyped (another dtype), changed.
        before, after: What the files say of it; None where one has none.
        values: Its elements; None where there are not two of one shape.
        overlap: Its masks; None for a tensor that is sparse in neither.
    """

    name: str
    change: Change
    before: TensorSpec | None
    after: TensorSpec | None
    values: Elements | None = None
    overlap: Overlap | None = None

    def to_json(self) -> dict[str, Any]:
        sides = (self.before, self.after)
        return {
            "name": self.name,
            "change": self.change,
            "shape": [None if spec is None else list(spec.shape) for spec in sides],
            "dtype": [None if spec is None else spec.dtype for spec in sides],
            "elements": None if self.values is None else {
                "differing": self.values.differing,
                "max_abs": self.values.largest,
                "nonfinite": self.values.nonfinite,
            },
            "masks": None if self.overlap is None else self.overlap.to_json(),
        }  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One of the two files.

    Attributes:
        path: The file, or the folder of a model.
        format: The reader that opened it.
        tensors, params: Number of tensors, and of their elements.
        size: Bytes on disk.
        flops: What a forward pass costs; None where it was not counted.
        uncounted: Why it was not.
    """

    path: Path
    format: str
    tensors: int
    params: int
    size: int
    flops: FlopReport | None = None
    uncounted: str | None = None

    def to_json(self) -> dict[str, Any]:
        macs = None if self.flops is None else {"dense": self.flops.dense, "sparse": self.flops.sparse}
        return {
            "path": str(self.path),
            "format": self.format,
            "tensors": self.tensors,
            "parameters": self.params,
            "bytes": self.size,
            "macs": macs,
            "flops": macs and {key: 2 * value for key, value in macs.items()},
            "uncounted": self.uncounted,
        }


@dataclass(frozen=True)
class Difference:
    """Two files.

    Attributes:
        before, after: The files.
        tensors: All names, first those of ``before`` in its order.
    """

    before: Side
    after: Side
    tensors: tuple[TensorDifference, ...]

    @property
    def equal(self) -> bool:
        """Whether both have the same tensors, to the bit, and the same masks. Their formats and metadata may differ."""
        return all(tensor.change == "same" for tensor in self.tensors)

    @property
    def overlap(self) -> Overlap | None:
        """Of all masks together; None where nothing is sparse."""
        masks = [tensor.overlap for tensor in self.tensors if tensor.overlap is not None]
        return sum(masks, Overlap()) if masks else None

    def counts(self) -> dict[Change, int]:
        """Number of tensors by what became of them."""
        found = Counter(tensor.change for tensor in self.tensors)
        kinds: tuple[Change, ...] = ("same", "added", "removed", "reshaped", "retyped", "changed")
        return {change: found[change] for change in kinds}

    def to_json(self) -> dict[str, Any]:
        overlap = self.overlap
        return {
            "schema": SCHEMA,
            "equal": self.equal,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "counts": self.counts(),
            "masks": None if overlap is None else overlap.to_json(),
            "tensors": [tensor.to_json() for tensor in self.tensors if tensor.change != "same"],
        }


def compare(before: Path, after: Path, *, allow_pickle: bool = False) -> Difference:
    """Compare two files, two tensors of one name at a time; their FLOPs are not counted.

    Raises:
        CheckpointError: One of them cannot be read.
        Malformed: A mask or a tensor of one is damaged.
    """
    with (
        open_checkpoint(before, allow_pickle=allow_pickle) as first,
        open_checkpoint(after, allow_pickle=allow_pickle) as second,
    ):
        return Difference(_side(before, first), _side(after, second), tuple(_tensors(first, second)))


def _side(path: Path, checkpoint: Checkpoint) -> Side:
    params = sum(spec.numel for spec in checkpoint.tensors.values())
    return Side(path, checkpoint.format, len(checkpoint.tensors), params, bytes_on_disk(path))


def _tensors(before: Checkpoint, after: Checkpoint) -> Iterator[TensorDifference]:
    masks = (_beside(before), _beside(after))
    for name, old in before.tensors.items():
        new = after.tensors.get(name)
        if new is None:
            yield TensorDifference(name, "removed", old, None)
        elif old.shape != new.shape:
            yield TensorDifference(name, "reshaped", old, new)
        else:
            yield _compared(name, before, after, masks)
    for name, new in after.tensors.items():
        if name not in before.tensors:
            yield TensorDifference(name, "added", None, new)


def _beside(checkpoint: Checkpoint) -> dict[str, Masked]:
    """The masks beside tensors; none of them in a file in which one is damaged, or that has NaN from a training that
    diverged: those are compared as the tensors that they are."""
    try:
        return beside(checkpoint)
    except Malformed:
        return {}


def _compared(
    name: str, before: Checkpoint, after: Checkpoint, masked: tuple[dict[str, Masked], dict[str, Masked]]
) -> TensorDifference:
    old, new = before.tensors[name], after.tensors[name]
    first, second = before.read(name), after.read(name)
    values = elements(first.reshape(-1), second.reshape(-1))
    masks = [_mask(side, name, array) for side, array in ((before, first), (after, second))]
    del first, second
    for index, weights in enumerate(masked):
        if name in weights:
            masks[index] = Mask.from_bool(weights[name].read()[1])
    told = any(name in weights for weights in masked) or old.nonzero is not None or new.nonzero is not None
    overlap = None
    if told or (old.is_floating_point and len(old.shape) > 1 and min(mask.nonzero for mask in masks) <= _most(old)):
        overlap = Overlap.of(*masks)
    moved = overlap is not None and (overlap.before, overlap.after) != (overlap.shared, overlap.shared)
    change: Change = "retyped" if old.dtype != new.dtype else "changed" if values.differing or moved else "same"
    return TensorDifference(name, change, old, new, values, overlap)


def _most(spec: TensorSpec) -> float:
    """How many elements of a matrix without a mask are nonzero at most where it counts as sparse."""
    return (1 - LEAST_SPARSITY) * spec.numel if spec.numel else -1


def _mask(checkpoint: Checkpoint, name: str, values: np.ndarray) -> Mask:
    """The stored mask of a tensor, or else where it is not 0."""
    stored = checkpoint.mask(name)
    if stored is not None:
        return stored
    flat = values.reshape(-1)
    bits = [np.packbits(flat[at : at + CHUNK] != 0, bitorder="little") for at in range(0, flat.size, CHUNK)]
    return Mask(values.shape, np.concatenate(bits) if bits else np.empty(0, np.uint8))
