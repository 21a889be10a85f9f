"""dense: every weight as it is, 0 where its mask keeps nothing. The masks themselves are not kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sift_cli.conversion.encodings import About, Encoded
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import TensorSpec

CONTAINERS = ("safetensors", "folder", "torch_zip", "npz")
OF_ZEROS = False
IN_NAN = False


def parts(spec: TensorSpec, mask: Mask) -> Encoded | None:
    return None


def encode(encoded: Encoded, values: np.ndarray, mask: Mask) -> Iterator[tuple[str, np.ndarray]]:
    raise AssertionError("nothing is encoded")


def about(encoded: Mapping[str, Encoded]) -> About:
    return About()


def config(config: dict[str, Any], encoded: Mapping[str, Encoded]) -> dict[str, Any]:
    return config
