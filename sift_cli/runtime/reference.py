"""What each op means, in numpy: clear, slow, in double precision. An oracle for the kernels, no way to run models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sift_cli.core.operators import ACTIVATIONS


def decode_bitmask(bitmask: np.ndarray, values: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The dense weight and its mask.

    Args:
        bitmask: uint8 ``[ceil(n / 8)]``, n the product of ``shape``. Element i of the weight in row-major order is kept
            iff bit ``i % 8`` (least significant first) of byte ``i // 8`` is set; unused bits of the last byte are 0.
        values: ``[kept]``, the kept weights in that order, in operators float32, float16 or bfloat16. A kept weight may
            be 0.
        shape: Shape of the weight.

    Returns:
        The weight, of ``values``' type and 0 where masked, and a bool array that is True where it is kept.

    Raises:
        ValueError: The sizes disagree, or an unused bit is set.
    """
    count = math.prod(shape)
    if bitmask.dtype != np.uint8 or bitmask.shape != (-(-count // 8),):
        raise ValueError(f"a weight of shape {tuple(shape)} needs {-(-count // 8)} bytes, not {bitmask.shape}")
    bits = np.unpackbits(bitmask, bitorder="little").astype(np.bool_)
    if bits[count:].any():
        raise ValueError("bitmask has bits set past its last weight")
    kept = bits[:count].reshape(shape)
    if values.shape != (kept.sum(),):
        raise ValueError(f"bitmask keeps {kept.sum()} weights but there are {values.size} values")
    weight = np.zeros(shape, values.dtype)
    weight[kept] = values
    return weight, kept


def sparse_conv(
    x: np.ndarray,
    weight: np.ndarray,
    kept: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
) -> np.ndarray:
    """SparseConv: a convolution whose masked weights do not exist (they do not turn an infinite input into NaN).

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[M, C / group, kH, kW]``, with ``kept`` as :func:`decode_bitmask` returns them.
        kept: bool, of the same shape.
        bias: ``[M]``, or None.
        strides: Down, across.
        pads: Zeros at the top, left, bottom, right.
        dilations: Down, across.
        group: Number of groups; filter m reads the channels of group ``m // (M / group)``.

    Returns:
        float64 ``[N, M, Ho, Wo]``.
    """
    top, left, bottom, right = pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    filters, group_channels, kernel_h, kernel_w = weight.shape
    out_h = (padded.shape[2] - (kernel_h - 1) * dilations[0] - 1) // strides[0] + 1
    out_w = (padded.shape[3] - (kernel_w - 1) * dilations[1] - 1) // strides[1] + 1
    y = np.zeros((x.shape[0], filters, out_h, out_w))
    if bias is not None:
        y += bias[:, None, None]
    with np.errstate(invalid="ignore"):  # 0 × ∞ is NaN here as in the kernels
        for m, c, i, j in np.argwhere(kept):
            channel = m // (filters // group) * group_channels + c
            rows = slice(i * dilations[0], i * dilations[0] + (out_h - 1) * strides[0] + 1, strides[0])
            columns = slice(j * dilations[1], j * dilations[1] + (out_w - 1) * strides[1] + 1, strides[1])
            y[:, m] += np.float64(weight[m, c, i, j]) * padded[:, channel, rows, columns]
    return y


def sparse_linear(x: np.ndarray, weight: np.ndarray, kept: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """SparseLinear: ``x @ weight.T + bias`` whose masked weights do not exist.

    Args:
        x: ``[..., K]``.
        weight: ``[N, K]``, with ``kept`` as :func:`decode_bitmask` returns them.
        kept: bool, of the same shape.
        bias: ``[N]``, or None.

    Returns:
        float64 ``[..., N]``.
    """
    y = np.zeros((*x.shape[:-1], weight.shape[0]))
    if bias is not None:
        y += bias
    with np.errstate(invalid="ignore"):
        for n, k in np.argwhere(kept):
            y[..., n] += np.float64(weight[n, k]) * x[..., k].astype(np.float64)
    return y


def max_pool(x: np.ndarray, kernel_shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """ArrangedMaxPool: the first number of each window, or what is larger than all before it, row by row.

    Args:
        x: ``[N, C, H, W]``, at least as large as the kernel.
        kernel_shape: Down, across.
        strides: Down, across.

    Returns:
        Of the type of ``x``, ``[N, C, (H - kH) // down + 1, (W - kW) // across + 1]``.
    """
    room = (size - kernel for size, kernel in zip(x.shape[2:], kernel_shape, strict=True))
    out_h, out_w = (left // step + 1 for left, step in zip(room, strides, strict=True))
    y = x[:, :, :: strides[0], :: strides[1]][:, :, :out_h, :out_w]
    for i, j in np.ndindex(*kernel_shape):
        tap = x[:, :, i :: strides[0], j :: strides[1]][:, :, :out_h, :out_w]
        y = np.where(tap > y, tap, y)
    return y


def epilogue(
    sums: np.ndarray, activation: str = "", residual: np.ndarray | None = None, **attributes: float
) -> np.ndarray:
    """What an operator does behind its layer: SparseConvAddClip is SparseConv, then this with "Clip" and a residual.

    Args:
        sums: What the layer computes, its bias included.
        activation: The end of the operator's name, a key of :data:`~sift_cli.core.operators.ACTIVATIONS`.
        residual: Of the shape of ``sums``; None where "Add" is not in the name.
        attributes: Those of the activation.

    Returns:
        float64, of the shape of ``sums``.

    Raises:
        ValueError: The residual has another shape.
    """
    total = sums.astype(np.float64)
    if residual is not None:
        if residual.shape != sums.shape:
            raise ValueError(f"residual has shape {residual.shape} where the output has {sums.shape}")
        with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN
            total += residual
    return ACTIVATIONS[activation].meaning(total, **attributes)
