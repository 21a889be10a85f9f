"""torch tensors to numpy arrays and back, bit for bit, with ml_dtypes for what numpy lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sift_cli.core.tensors import DTYPE_NAMES, DTYPES

if TYPE_CHECKING:
    import torch

#: Dtypes that torch and numpy do not share travel as integers of their width.
_CARRIERS = {"BF16": "int16", "F8_E4M3": "uint8", "F8_E5M2": "uint8"}
_TORCH = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_NAMES = {torch: name for name, torch in _TORCH.items()}


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A new, contiguous array with the values of ``tensor``, from any device and with any strides.

    Raises:
        ValueError: It is sparse, quantized, without values (meta), or of a dtype numpy cannot hold.
    """
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = (
            "quantized" if tensor.is_quantized else "a meta tensor" if tensor.is_meta else f"of layout {tensor.layout}"
        )
        raise ValueError(f"it is {kind} and no plain dense tensor")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    name = _NAMES.get(str(plain.dtype).removeprefix("torch."))
    if name is not None:
        carried = plain.view(getattr(torch, _CARRIERS[name])).numpy().view(DTYPES[name])
        return carried.copy()
    try:
        array = plain.numpy().copy()
    except TypeError:
        raise ValueError(f"numpy has no dtype for {plain.dtype}") from None
    if array.dtype not in DTYPE_NAMES:
        raise ValueError(f"sift cannot hold {plain.dtype}")
    return array


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """A new CPU tensor with the values of ``array``; inverse of :func:`to_numpy`."""
    import torch

    name = DTYPE_NAMES[array.dtype]
    copied = np.array(array, order="C", copy=True)
    if name in _CARRIERS:
        return torch.from_numpy(copied.view(_CARRIERS[name])).view(getattr(torch, _TORCH[name]))
    return torch.from_numpy(copied)
