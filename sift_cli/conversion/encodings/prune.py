"""prune: ``NAME_orig`` and ``NAME_mask``, what ``torch.nn.utils.prune`` makes of a parameter.

A module whose parameters were given masks by ``prune.identity`` or ``prune.custom_from_mask`` has exactly these entries
in its state_dict. The mask has the element type of the weight, as torch's have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sift_cli.conversion.encodings import About, Array, Encoded
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import TensorSpec

CONTAINERS = ("safetensors", "folder", "torch_zip", "npz")
OF_ZEROS = False
IN_NAN = False
_VALUES, _MASK = "_orig", "_mask"


def parts(spec: TensorSpec, mask: Mask) -> Encoded | None:
    array = Array(spec.dtype, spec.shape)
    found = {f"{spec.name}{_VALUES}": array, f"{spec.name}{_MASK}": array}
    return Encoded(spec, found, mask.nonzero, mask.rule, mask.seed)


def encode(encoded: Encoded, values: np.ndarray, mask: Mask) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{encoded.spec.name}{_VALUES}", values
    for _, some in mask.runs():
        yield f"{encoded.spec.name}{_MASK}", some.astype(values.dtype)


def about(encoded: Mapping[str, Encoded]) -> About:
    return About()


def config(config: dict[str, Any], encoded: Mapping[str, Encoded]) -> dict[str, Any]:
    return config
