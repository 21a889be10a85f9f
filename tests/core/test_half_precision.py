"""Rounding to half precision, against Python's own and torch's."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from sift_cli.core.half import HALVES, Storage, is_matrix, stored_as, widened
from sift_cli.errors import ExportError


def numbers() -> np.ndarray:
    """float32 of all sizes down to the denormals of both types, and ties: numbers in the middle between two halves."""
    random = np.random.default_rng(0)
    spread = random.standard_normal(4000) * 2.0 ** random.integers(-30, 14, 4000)
    ties = np.arange(1, 4000, 2) * 2.0**-25
    ends = [0.0, -0.0, 65504, 65519.99, 1e-40]
    return np.concatenate([spread, ties, -ties, 1 + ties * 2.0**13, ends]).astype(np.float32)


def test_fp16_is_the_nearest_and_the_even_one_of_two() -> None:
    got = stored_as("w", numbers(), "fp16")
    assert got.tobytes() == b"".join(struct.pack("<e", number) for number in numbers().tolist())


def test_bf16_is_the_nearest_and_the_even_one_of_two() -> None:
    got = stored_as("w", numbers(), "bf16")
    want = torch.from_numpy(numbers()).bfloat16().view(torch.int16).numpy()
    assert got.view(np.int16).tolist() == want.tolist()


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_no_number_stays_what_it_is(dtype: Storage) -> None:
    array = np.float32([np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(widened(stored_as("w", array, dtype)), array)


@pytest.mark.parametrize(
    ("dtype", "least", "sentence", "hint"),
    [
        ("fp16", 65520.0, r"^'block.weight' has a weight of -65520, and fp16 ends at 65504$", "--dtype bf16"),
        ("bf16", 3.3962e38, r"^'block.weight' has a weight of -3.3962e\+38, and bf16 ends at 3.38953e\+38$", "leave"),
    ],
)
def test_a_number_out_of_range_is_refused(dtype: Storage, least: float, sentence: str, hint: str) -> None:
    with pytest.raises(ExportError, match=sentence) as caught:
        stored_as("block.weight", np.float32([1.0, -least, np.inf]), dtype)
    assert hint in (caught.value.hint or "")
    assert np.isfinite(widened(stored_as("w", np.float32([-0.9999 * least]), dtype))).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_widening_is_exact(dtype: Storage) -> None:
    half = stored_as("w", numbers(), dtype)
    assert widened(half).dtype == np.float32
    assert stored_as("w", widened(half), dtype).tobytes() == half.tobytes()
    array = np.arange(3)
    assert widened(array) is array


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [((8, 3, 3, 3), True), ((50257, 768), True), ((8,), False), ((1, 1, 768), False), ((64, 1, 1), False), ((), False)],
    ids=str,
)
def test_what_half_precision_is_for(shape: tuple[int, ...], matrix: bool) -> None:
    assert is_matrix(shape) is matrix
