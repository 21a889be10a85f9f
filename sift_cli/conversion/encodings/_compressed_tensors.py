"""What the two sparse formats of compressed-tensors up to 0.14 have in common.

A file has one of them: its configuration names the format, and that version reads all parts by it. Only matrices
called ``….weight`` are compressed. Read back by compressed-tensors 0.13.0; see
:mod:`sift_cli.checkpoint.compressed_tensors` for the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sift_cli.conversion.encodings import Encoded
from sift_cli.core.tensors import TensorSpec

_WEIGHT, _CONFIG = ".weight", "quantization_config"


def stem(spec: TensorSpec) -> str | None:
    """Name of the layer whose weight may be compressed, or None for what has to be dense."""
    layer = spec.name.removesuffix(_WEIGHT)
    return layer if layer != spec.name and len(spec.shape) == 2 and spec.numel else None


def packed(rows: np.ndarray) -> np.ndarray:
    """Rows of bools as bits, least significant first, each row padded to whole bytes."""
    return np.packbits(rows, axis=1, bitorder="little")


def config(config: dict[str, Any], encoded: Mapping[str, Encoded], format: str, structure: str) -> dict[str, Any]:
    """``config`` with what compressed-tensors looks for, where there is anything compressed.

    ``global_sparsity`` is that of the compressed weights together.
    """
    if not encoded:
        return config
    kept = sum(one.nonzero for one in encoded.values())
    sparsity = {
        "format": format,
        "global_sparsity": 1 - kept / sum(one.spec.numel for one in encoded.values()),
        "sparsity_structure": structure,
        "targets": sorted(name.removesuffix(_WEIGHT) for name in encoded),
        "ignore": [],
        "registry_requires_subclass": False,
    }
    about = {"quant_method": "compressed-tensors", **config.get(_CONFIG, {}), "sparsity_config": sparsity}
    return {**config, _CONFIG: about}
