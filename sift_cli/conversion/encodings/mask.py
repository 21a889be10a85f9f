"""mask: the weight, and beside it a tensor ``NAME_mask`` of bools, as Cerebras' PyTorch has it since its release 2.2.

Its masks are buffers of type ``torch.bool`` (``cerebras.pytorch.sparse.base.SparseParameter``), and its trainer looks
for the state_dict under "model". It needs nothing else: a ``sparsity`` entry is the state of an algorithm that changes
masks while it trains, and one that finds none begins anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sift_cli.conversion.encodings import About, Array, Encoded
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import TensorSpec
from sift_cli.errors import ExportError

CONTAINERS = ("safetensors", "folder", "torch_zip", "npz")
OF_ZEROS = False
IN_NAN = False
_SUFFIX = "_mask"


def parts(spec: TensorSpec, mask: Mask) -> Encoded | None:
    if len(spec.shape) < 2:
        raise ExportError(
            f"{spec.name!r} has a mask and is no matrix, and files with _mask tensors have none for those",
            hint="choose another encoding: --to prune keeps every mask",
        )
    found = {spec.name: Array(spec.dtype, spec.shape), f"{spec.name}{_SUFFIX}": Array("BOOL", spec.shape)}
    return Encoded(spec, found, mask.nonzero, mask.rule, mask.seed)


def encode(encoded: Encoded, values: np.ndarray, mask: Mask) -> Iterator[tuple[str, np.ndarray]]:
    yield encoded.spec.name, values
    for _, some in mask.runs():
        yield f"{encoded.spec.name}{_SUFFIX}", some


def about(encoded: Mapping[str, Encoded]) -> About:
    return About(wrapper="model" if encoded else None)


def config(config: dict[str, Any], encoded: Mapping[str, Encoded]) -> dict[str, Any]:
    return config
