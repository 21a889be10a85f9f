"""sift: the kept values and where they belong, in the smaller format of :mod:`sift_cli.sparsity.formats`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sift_cli.checkpoint import sparse_metadata
from sift_cli.checkpoint.sparse_metadata import SparseEntry
from sift_cli.conversion.encodings import About, Array, Encoded
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import TensorSpec
from sift_cli.sparsity import formats
from sift_cli.sparsity.formats import VALUES

CONTAINERS = ("safetensors", "folder")
OF_ZEROS = True
IN_NAN = False


def parts(spec: TensorSpec, mask: Mask) -> Encoded | None:
    format = formats.smallest(mask)
    found = {
        f"{spec.name}.{format}": Array("U8", (formats.index_size(format, mask),)),
        f"{spec.name}.{VALUES}": Array(spec.dtype, (mask.nonzero,)),
    }
    return Encoded(spec, found, mask.nonzero, mask.rule, mask.seed, format, whole=True)


def encode(encoded: Encoded, values: np.ndarray, mask: Mask) -> Iterator[tuple[str, np.ndarray]]:
    for part, piece in formats.pieces(encoded.scheme, values, mask):
        yield f"{encoded.spec.name}.{part}", piece


def about(encoded: Mapping[str, Encoded]) -> About:
    entries = {
        name: SparseEntry(one.scheme, one.spec.shape, one.spec.dtype, one.nonzero, one.rule, one.seed)
        for name, one in encoded.items()
    }
    return About(sparse_metadata.dumps(entries))


def config(config: dict[str, Any], encoded: Mapping[str, Encoded]) -> dict[str, Any]:
    return config
