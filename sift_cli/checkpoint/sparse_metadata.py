"""The two metadata keys by which a safetensors file says which of its arrays are parts of sparse tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from sift_cli.checkpoint._bytes import checked_shape
from sift_cli.checkpoint._json import loads
from sift_cli.core.tensors import DTYPES
from sift_cli.sparsity import formats
from sift_cli.sparsity.formats import Part

VERSION_KEY = "sift.version"
SPARSE_KEY = "sift.sparse"
#: What is defined in docs/sparse-formats.md. A file has the lowest version that has all it uses.
VERSIONS = ("1", "2")


@dataclass(frozen=True)
class SparseEntry:
    """What the metadata tells of one sparse tensor.

    Attributes:
        format: A plug-in of :mod:`sift_cli.sparsity.formats`.
        shape: Dense shape.
        dtype: Dtype of the values, as safetensors spells it.
        nonzero: Number of kept weights.
        rule, seed: How the mask was chosen, see :class:`~sift_cli.core.masks.Mask`.
    """

    format: str
    shape: tuple[int, ...]
    dtype: str
    nonzero: int
    rule: str
    seed: int | None

    @property
    def parts(self) -> dict[str, Part]:
        """What the arrays have to be that make up the tensor, by their names within it."""
        return formats.get(self.format).layout(self.shape, DTYPES[self.dtype], self.nonzero)


def dumps(entries: Mapping[str, SparseEntry]) -> dict[str, str]:
    """The metadata for ``entries``, the same text in every process."""
    listed = {
        name: {
            "format": entry.format,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "nonzero": entry.nonzero,
            "rule": entry.rule,
            "seed": entry.seed,
        }
        for name, entry in sorted(entries.items())
    }
    version = max((formats.get(entry.format).SINCE for entry in entries.values()), default=1)
    return {VERSION_KEY: str(version), SPARSE_KEY: json.dumps(listed, ensure_ascii=False, separators=(",", ":"))}


def parse(metadata: Mapping[str, str]) -> dict[str, SparseEntry]:
    """Inverse of :func:`dumps`; empty for a file that is not sift's.

    Raises:
        ValueError: Another version, an unknown format or field, or a value of the wrong type or range.
    """
    if SPARSE_KEY not in metadata and VERSION_KEY not in metadata:
        return {}
    version = metadata.get(VERSION_KEY)
    if version not in VERSIONS:
        known = " and ".join(map(repr, VERSIONS))
        raise ValueError(f"{VERSION_KEY} is {str(version)[:20]!r}, and this sift reads {known}")
    listed = loads(metadata.get(SPARSE_KEY, "{}"))
    if not isinstance(listed, dict):
        raise ValueError(f"{SPARSE_KEY} is not a JSON object")
    return {name: _entry(name, item, int(version)) for name, item in listed.items()}


def _entry(name: str, item: object, version: int) -> SparseEntry:
    try:
        if not isinstance(item, dict):
            raise ValueError("it is not a JSON object")
        entry = SparseEntry(**{**item, "shape": checked_shape(item.get("shape"), DTYPES[item["dtype"]].itemsize)})
        if (since := formats.get(entry.format).SINCE) > version:
            raise ValueError(f"the format {entry.format!r} came with version {since}, and the file has {version}")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name!r} in {SPARSE_KEY}: unknown or missing {error}") from None
    except ValueError as error:
        raise ValueError(f"{name!r} in {SPARSE_KEY}: {error}") from None
    if type(entry.nonzero) is not int or not 0 <= entry.nonzero <= math.prod(entry.shape):
        raise ValueError(f"{name!r} in {SPARSE_KEY}: it cannot keep {str(entry.nonzero)[:20]} weights")
    if not isinstance(entry.rule, str) or not (entry.seed is None or type(entry.seed) is int):
        raise ValueError(f"{name!r} in {SPARSE_KEY}: its rule is not a string or its seed not an integer")
    return entry
