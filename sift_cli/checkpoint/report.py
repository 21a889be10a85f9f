"""What ``sift inspect`` says of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint._json import loads
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.prefixes import common_prefixes
from sift_cli.core.tensors import TensorSpec
from sift_cli.errors import Malformed

SCHEMA = "sift.inspect/1"
#: Up to so many bytes of dense floats, zeros are counted without being asked for: about a second of reading.
COUNT_LIMIT = 512 * 2**20


@dataclass(frozen=True)
class TensorReport:
    """One tensor.

    Attributes:
        spec: Name, shape, dtype, format and stored bytes.
        nonzero: Weights kept by its mask, or elements of a dense float tensor that are not 0; None where not counted.
    """

    spec: TensorSpec
    nonzero: int | None

    @property
    def sparsity(self) -> float | None:
        return _sparsity(self.spec.numel, self.nonzero)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.spec.name,
            "shape": list(self.spec.shape),
            "dtype": self.spec.dtype,
            "format": self.spec.format,
            "parameters": self.spec.numel,
            "stored_bytes": self.spec.stored_bytes,
            "nonzero": self.nonzero,
            "sparsity": self.sparsity,
        }


@dataclass(frozen=True)
class InspectReport:
    """A file's tensors and what else it holds.

    Attributes:
        path: The file.
        format: Reader that opened it.
        tensors: In the file's order.
        wrapper: Where in the file the tensors were, see :class:`~sift_cli.checkpoint.base.Checkpoint`.
        prefix: What all names have in common, see :func:`~sift_cli.checkpoint.prefixes.common_prefixes`.
        ignored: Entries that are no tensors.
        plan, certificate, model: The JSON documents that sift stored in the metadata, as they are; None without.
        architecture: Name of the architecture, where one was recognised.
        candidates: Names of all architectures that fit.
    """

    path: Path
    format: str
    tensors: tuple[TensorReport, ...]
    wrapper: str | None = None
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    plan: Any = None
    certificate: Any = None
    model: Any = None
    architecture: str | None = None
    candidates: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Elements of all tensors, buffers (running means) too: a file does not tell them from parameters."""
        return sum(tensor.spec.numel for tensor in self.tensors)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors as stored; what several tensors share is counted for each."""
        return sum(tensor.spec.stored_bytes for tensor in self.tensors)

    @property
    def dense_bytes(self) -> int:
        return sum(tensor.spec.dense_bytes for tensor in self.tensors)

    @property
    def sparsity(self) -> float | None:
        """Share of zeros over all floating-point and all sparse tensors; None if one of them was not counted."""
        weights = [t for t in self.tensors if t.spec.is_floating_point or t.nonzero is not None]
        if any(t.nonzero is None for t in weights):
            return None
        return _sparsity(sum(t.spec.numel for t in weights), sum(t.nonzero or 0 for t in weights))

    @property
    def masked(self) -> tuple[TensorReport, ...]:
        """The tensors that have a mask."""
        return tuple(tensor for tensor in self.tensors if tensor.spec.nonzero is not None)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "path": str(self.path),
            "format": self.format,
            "architecture": self.architecture,
            "candidates": list(self.candidates),
            "wrapper": self.wrapper,
            "prefix": self.prefix,
            "ignored": list(self.ignored),
            "totals": {
                "tensors": len(self.tensors),
                "parameters": self.parameters,
                "stored_bytes": self.stored_bytes,
                "dense_bytes": self.dense_bytes,
                "sparsity": self.sparsity,
            },
            "masks": {
                "count": len(self.masked),
                "parameters": sum(t.spec.numel for t in self.masked),
                "kept": sum(t.nonzero or 0 for t in self.masked),
            },
            "plan": self.plan,
            "certificate": self.certificate,
            "model": self.model,
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }


def inspect(path: str | Path, *, nonzeros: bool | None = None, allow_pickle: bool = False) -> InspectReport:
    """Look into a checkpoint.

    Args:
        path: The file.
        nonzeros: True reads every dense float tensor to count its zeros, False reads none, and None reads them if
            together they have at most :data:`COUNT_LIMIT` bytes. Of a sparse tensor the header says how much it keeps.
        allow_pickle: See :func:`~sift_cli.checkpoint.open_checkpoint`.

    Raises:
        CheckpointError: See :func:`~sift_cli.checkpoint.open_checkpoint`.
        Malformed: A document of sift's in the metadata is not JSON.
    """
    with open_checkpoint(path, allow_pickle=allow_pickle) as checkpoint:
        return inspect_checkpoint(checkpoint, nonzeros=nonzeros)


def inspect_checkpoint(checkpoint: Checkpoint, *, nonzeros: bool | None = None) -> InspectReport:
    """:func:`inspect` for a checkpoint that is open."""
    dense = [spec for spec in checkpoint.tensors.values() if spec.nonzero is None and spec.is_floating_point]
    count = nonzeros if nonzeros is not None else sum(spec.dense_bytes for spec in dense) <= COUNT_LIMIT
    counted = {spec.name: int(np.count_nonzero(checkpoint.read(spec.name))) for spec in dense} if count else {}
    return InspectReport(
        path=checkpoint.path,
        format=checkpoint.format,
        tensors=tuple(
            TensorReport(spec, counted.get(name) if spec.nonzero is None else spec.nonzero)
            for name, spec in checkpoint.tensors.items()
        ),
        wrapper=checkpoint.wrapper,
        prefix=checkpoint.prefix + common_prefixes(checkpoint.tensors),
        ignored=checkpoint.ignored,
        plan=document(checkpoint, "sift.plan"),
        certificate=document(checkpoint, "sift.certificate"),
        model=document(checkpoint, "sift.model"),
    )


def document(checkpoint: Checkpoint, key: str) -> Any:
    """The JSON document under ``key`` in the metadata, or None.

    Raises:
        Malformed: It is not JSON.
    """
    metadata: Mapping[str, str] = checkpoint.metadata
    if key not in metadata:
        return None
    try:
        return loads(metadata[key])
    except ValueError as error:
        raise Malformed(checkpoint.path, f"the metadata {key}", str(error)) from None


def _sparsity(total: int, nonzero: int | None) -> float | None:
    return 1 - nonzero / total if total and nonzero is not None else None
