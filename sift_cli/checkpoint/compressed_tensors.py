"""compressed-tensors' sparse weights, as its versions up to 0.14 wrote them; known by the names of their parts.

::

    NAME.shape        int64[2] or int64[2, 1]            of the weight NAME.weight
    NAME.compressed   dtype[nonzero], or [rows, columns / 2] of sparse-24-bitmask
    NAME.bitmask      uint8[rows, ceil(columns / 8)]      least significant bit first, rows padded to whole bytes
    NAME.row_offsets  int64[rows]                         values before each row; sparse-bitmask only

Source: ``compressors/sparse_compressors`` of compressed-tensors 0.13. ``config.json`` names the format too, but says
nothing of a tensor. The parts of a weight may lie in several shards of a folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sift_cli.checkpoint._bytes import checked_shape
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPES, TensorSpec
from sift_cli.errors import Malformed

_MARK, _PARTS = "compressed", ("shape", "compressed", "bitmask")
_OFFSETS = "row_offsets"
#: Where a configuration has it; the first name is that of old files. If nothing is left but what any file has, nothing
#: was said about quantization.
_CONFIGS, _SPARSITY = ("compression_config", "quantization_config"), "sparsity_config"
_OF_ANY = {"quant_method", "version"}


def decompressed(checkpoint: Checkpoint) -> Checkpoint:
    """A view of ``checkpoint`` with such weights under their names; itself where it has none.

    Raises:
        Malformed: A weight's parts do not fit each other.
    """
    stems = [name.removesuffix(f".{_MARK}") for name in checkpoint.tensors if name.endswith(f".{_MARK}")]
    found = [stem for stem in stems if all(f"{stem}.{part}" in checkpoint.tensors for part in _PARTS)]
    return _Decompressed(checkpoint, found) if found else checkpoint


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config``, that of a folder, without what it says of such weights."""
    result = dict(config)
    for key in _CONFIGS:
        about = result.get(key)
        if isinstance(about, dict) and _SPARSITY in about:
            result[key] = {name: value for name, value in about.items() if name != _SPARSITY}
            if result[key].keys() <= _OF_ANY:
                del result[key]
    return result


@dataclass(frozen=True)
class _Weight:
    """A weight: the name of its parts, and what they say of it."""

    stem: str
    spec: TensorSpec
    offsets: bool

    @classmethod
    def checked(cls, checkpoint: Checkpoint, stem: str) -> _Weight:
        shapes, values, bits = (checkpoint.tensors[f"{stem}.{part}"] for part in _PARTS)
        if shapes.dtype != "I64" or shapes.shape not in ((2,), (2, 1)):
            raise ValueError(f"its shape is {shapes.dtype} {list(shapes.shape)}, and a weight has two axes")
        shape = checked_shape(checkpoint.read(shapes.name).reshape(-1).tolist(), DTYPES[values.dtype].itemsize)
        offsets = checkpoint.tensors.get(f"{stem}.{_OFFSETS}")
        rows, columns = shape
        if (bits.dtype, bits.shape) != ("U8", (rows, -(-columns // 8))):
            raise ValueError(f"its bitmask is {bits.dtype} {list(bits.shape)}, its shape {list(shape)}")
        if offsets is None and (values.shape != (rows, columns // 2) or columns % 2):
            raise ValueError(f"its values are {list(values.shape)}, which is not half of {list(shape)}")
        if offsets is not None and (
            len(values.shape) != 1
            or values.numel > math.prod(shape)
            or (offsets.dtype, offsets.shape) != ("I64", (rows,))
        ):
            raise ValueError(f"its values are {list(values.shape)}, its row offsets {list(offsets.shape)}")
        stored = sum(part.stored_bytes for part in (shapes, values, bits, *((offsets,) if offsets else ())))
        format = "sparse-24-bitmask" if offsets is None else "sparse-bitmask"
        spec = TensorSpec(f"{stem}.weight", shape, values.dtype, stored, format, values.numel)
        return cls(stem, spec, offsets is not None)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(f"{self.stem}.{part}" for part in (*_PARTS, *((_OFFSETS,) if self.offsets else ())))

    def kept(self, checkpoint: Checkpoint) -> np.ndarray:
        """Its mask as bools."""
        columns = self.spec.shape[1]
        bits = np.unpackbits(checkpoint.read(f"{self.stem}.bitmask"), axis=-1, bitorder="little").view(np.bool_)
        kept = np.ascontiguousarray(bits[:, :columns])
        counts = np.count_nonzero(kept, axis=1)
        if bits[:, columns:].any():
            raise ValueError(f"bits are set after the last of {columns} columns")
        if counts.sum() != self.spec.nonzero:
            raise ValueError(f"its bitmask keeps {counts.sum()} weights, and there are {self.spec.nonzero} values")
        if self.offsets:
            offsets = checkpoint.read(f"{self.stem}.{_OFFSETS}")
            if not np.array_equal(offsets, np.cumsum(counts) - counts):
                raise ValueError("its rows do not begin where its bitmask says")
        return kept


class _Decompressed(Checkpoint):
    def __init__(self, inner: Checkpoint, stems: list[str]) -> None:
        self._inner = inner
        self.path, self.format, self.metadata = inner.path, inner.format, inner.metadata
        self.wrapper, self.ignored, self.module, self.prefix = inner.wrapper, inner.ignored, inner.module, inner.prefix
        weights = []
        for stem in stems:
            try:
                weights.append(_Weight.checked(inner, stem))
            except ValueError as error:
                raise Malformed(inner.path, f"tensor '{stem}.weight'", str(error)) from None
        owner = {part: weight for weight in weights for part in weight.parts}
        self._weights: dict[str, _Weight] = {}
        self.tensors = {}
        for name, spec in inner.tensors.items():
            weight = owner.get(name)
            if weight is None:
                self.tensors[name] = spec
            else:
                self._weights[weight.spec.name] = weight
                self.tensors[weight.spec.name] = weight.spec
        for name in self._weights.keys() & inner.tensors.keys():
            raise Malformed(inner.path, f"tensor {name!r}", "it is stored both dense and sparse")

    def _read(self, name: str) -> np.ndarray:
        if name not in self._weights:
            return self._inner.read(name)
        weight = self._weights[name]
        result = np.zeros(weight.spec.shape, DTYPES[weight.spec.dtype])
        result[self._kept(name)] = self._inner.read(f"{weight.stem}.{_MARK}").reshape(-1)
        return result

    def _mask(self, name: str) -> Mask | None:
        return Mask.from_bool(self._kept(name)) if name in self._weights else self._inner.mask(name)

    def _kept(self, name: str) -> np.ndarray:
        try:
            return self._weights[name].kept(self._inner)
        except ValueError as error:
            raise Malformed(self.path, f"tensor {name!r}", str(error)) from None

    def masks_apart(self) -> Checkpoint | None:
        return self._inner.masks_apart()

    def file_of(self, name: str) -> Path:
        return self._inner.file_of(f"{self._weights[name].stem}.{_MARK}" if name in self._weights else name)

    def files(self) -> Sequence[Path]:
        return self._inner.files()

    def close(self) -> None:
        self._inner.close()
