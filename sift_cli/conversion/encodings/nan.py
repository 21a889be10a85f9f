"""nan: NaN in the place of every pruned weight, as Cerebras' releases up to 1.9 have it.

What :mod:`sift_cli.checkpoint.sidebands.nan` takes for a training that diverged is refused. A mask that keeps
everything leaves no trace.
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
IN_NAN = True


def parts(spec: TensorSpec, mask: Mask) -> Encoded | None:
    if not spec.is_floating_point:
        raise _refusal(spec, f"its element type {spec.dtype} has no NaN")
    if len(spec.shape) < 2:
        raise _refusal(spec, "it is no matrix, and NaN in a vector are taken for a training that diverged")
    if spec.numel and not mask.nonzero:
        raise _refusal(spec, "its mask keeps nothing, and a matrix of NaN is taken for a training that diverged")
    if mask.nonzero == spec.numel:
        return None
    return Encoded(spec, {spec.name: Array(spec.dtype, spec.shape)}, mask.nonzero, mask.rule, mask.seed)


def encode(encoded: Encoded, values: np.ndarray, mask: Mask) -> Iterator[tuple[str, np.ndarray]]:
    flat = np.ascontiguousarray(values).reshape(-1)
    for start, kept in mask.runs():
        some = flat[start : start + kept.size].copy()
        if not np.isfinite(some).all():
            raise _refusal(encoded.spec, "it has NaN or infinities of its own")
        some[~kept] = np.nan
        yield encoded.spec.name, some


def _refusal(spec: TensorSpec, why: str) -> ExportError:
    return ExportError(
        f"NaN cannot stand for the pruned weights of {spec.name!r}: {why}",
        hint="choose another encoding: --to mask or --to prune",
    )


def about(encoded: Mapping[str, Encoded]) -> About:
    return About(wrapper="model" if encoded else None)


def config(config: dict[str, Any], encoded: Mapping[str, Encoded]) -> dict[str, Any]:
    return config
