"""The delta format, byte by byte as docs/sparse-formats.md defines it."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sift_cli.core.masks import Mask
from sift_cli.sparsity.formats import delta, encode, smallest

F32 = np.dtype(np.float32)


def mask_of(numel: int, *kept: int) -> Mask:
    bools = np.zeros(numel, bool)
    bools[list(kept)] = True
    return Mask.from_bool(bools)


def ones(mask: Mask, dtype: type = np.int8) -> np.ndarray:
    return mask.to_bool().astype(dtype)


def test_bytes_of_a_known_tensor():
    # Row-major elements 0, 3, 8 and 9 of ten: none skipped, then two, four, none.
    array = np.array([[1.5, 0, 0, -2, 0], [0, 0, 0, -0.0, 4]], np.float32)
    kept = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 1, 1]], bool)
    parts = encode("delta", array, Mask.from_bool(kept))
    assert parts["delta"].tobytes() == bytes([0, 2, 4, 0])
    assert parts["values"].tobytes() == bytes.fromhex("0000c03f 000000c0 00000080 00008040")


def test_bytes_of_a_known_float8_tensor():
    array = np.array([0, 1, 0, -2], ml_dtypes.float8_e4m3fn)
    parts = encode("delta", array, Mask.from_bool(array != 0))
    assert (parts["delta"].tobytes(), parts["values"].tobytes()) == (b"\x01\x01", bytes.fromhex("38 c0"))


def test_decode_of_known_bytes():
    parts = {"delta": np.array([2, 0, 255, 41, 255], np.uint8), "values": np.array([7, -0.0, 9], np.float32)}
    decoded = delta.decode(parts, (20, 30), F32)
    expected = np.zeros(600, np.float32)
    expected[[2, 3, 300]] = [7, -0.0, 9]
    assert decoded.shape == (20, 30)
    assert decoded.tobytes() == expected.tobytes()
    assert np.flatnonzero(delta.mask(parts["delta"], (600,), 3).to_bool()).tolist() == [2, 3, 300]


@pytest.mark.parametrize(
    ("numel", "kept", "index"),
    [
        (0, [], []),
        (254, [], []),
        (255, [], [255]),
        (509, [], [255]),
        (510, [], [255, 255]),
        (255, [254], [254]),
        (256, [255], [255, 0]),
        (257, [256], [255, 1]),
        (510, [509], [255, 254]),
        (511, [510], [255, 255, 0]),
        (255, [0], [0]),
        (256, [0], [0, 255]),
        (1022, [0, 256, 766], [0, 255, 0, 255, 254, 255]),
    ],
)
def test_gaps_around_255(numel, kept, index):
    mask = mask_of(numel, *kept)
    assert encode("delta", ones(mask), mask)["delta"].tolist() == index
    assert np.array_equal(delta.mask(np.array(index, np.uint8), (numel,), len(kept)).bits, mask.bits)


def by_hand(numel: int, kept: set[int]) -> list[int]:
    """The index as the page says it, one element after another."""
    index, skipped = [], 0
    for element in range(numel):
        if element in kept:
            index.append(skipped)
            skipped = 0
        elif (skipped := skipped + 1) == 255:
            index.append(255)
            skipped = 0
    return index


@settings(deadline=None)
@given(st.lists(st.integers(0, 800), max_size=8), st.integers(0, 800))
def test_any_gaps(gaps, tail):
    kept = [sum(gaps[:i]) + i + gap for i, gap in enumerate(gaps)]
    mask = mask_of(kept[-1] + 1 + tail if kept else tail, *kept)
    array = ones(mask, np.float16)
    parts = encode("delta", array, mask)
    assert parts["delta"].tolist() == by_hand(mask.numel, set(kept))
    assert delta.decode(parts, array.shape, array.dtype).tobytes() == array.tobytes()
    assert delta.mask(parts["delta"], array.shape, len(kept)).bits.tobytes() == mask.bits.tobytes()


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 700])
def test_an_index_of_several_chunks(gap, monkeypatch):
    """Every element is where it belongs, with a chunk's end after each byte, and chunks of escapes alone."""
    mask = mask_of(9 * (gap + 1) + 300, *range(gap, 9 * (gap + 1), gap + 1))
    array = np.zeros(mask.numel, np.int64)
    array[gap : 9 * (gap + 1) : gap + 1] = range(1, 10)
    for size in range(1, 12):
        monkeypatch.setattr(delta, "_CHUNK", size)
        parts = encode("delta", array, mask)
        assert np.array_equal(delta.decode(parts, array.shape, array.dtype), array)
        assert np.array_equal(delta.mask(parts["delta"], array.shape, 9).bits, mask.bits)


def test_more_elements_than_a_chunk_has():
    kept = np.random.default_rng(0).random((300, 500)) < 0.6
    array = np.where(kept, np.arange(150_000).reshape(300, 500), 0)
    parts = encode("delta", array, Mask.from_bool(kept))
    assert parts["delta"].size > delta._CHUNK
    assert np.array_equal(delta.decode(parts, array.shape, array.dtype), array)


@pytest.mark.parametrize("gap", [0, 3, 254, 255, 256, 511, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8], ids=str)
def test_size_of_a_regular_mask(gap, dtype):
    """Every (gap + 1)-th element is kept: (b + 1 + ⌊gap / 255⌋) bytes for each."""
    mask = mask_of(100 * (gap + 1), *range(gap, 100 * (gap + 1), gap + 1))
    parts = encode("delta", ones(mask, dtype), mask)
    assert sum(part.nbytes for part in parts.values()) == 100 * (np.dtype(dtype).itemsize + 1 + gap // 255)


@pytest.mark.parametrize("density", [0.25, 0.1, 0.05, 0.01, 0.001])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8], ids=str)
def test_size_of_a_random_mask_is_within_a_hundredth_of_its_expectation(density, dtype):
    """A gap is geometric: it has k escapes or more with the probability q^k, where q = (1 - density)^255."""
    kept = np.random.default_rng(0).random(20_000_000 if density < 0.01 else 1_000_000, np.float32) < density
    count, q = int(kept.sum()), (1 - kept.mean()) ** 255
    parts = encode("delta", kept.astype(dtype), Mask.from_bool(kept))
    size = sum(part.nbytes for part in parts.values())
    assert size == pytest.approx(count * (np.dtype(dtype).itemsize + 1 + q / (1 - q)), rel=0.01)
    if density >= 0.05:
        assert size == pytest.approx(count * (np.dtype(dtype).itemsize + 1), rel=1e-4)


@pytest.mark.parametrize(
    ("index", "nonzero", "why"),
    [
        ([2, 0, 255, 41], 3, "lead to element 301 of 600"),
        ([2, 0, 255, 41, 255, 255], 3, "lead to element 811 of 600"),
        ([2, 0, 255, 41, 255, 44], 4, "lead to element 601 of 600"),
        ([2, 0, 255, 41, 255], 4, "keep 3 weights, and there are 4 values"),
        ([2, 0, 255, 41, 255], 2, "keep 3 weights, and there are 2 values"),
        ([], 0, "lead to element 0 of 600"),
        ([255, 255, 255], 0, "lead to element 765 of 600"),
        ([[2, 0, 255, 41, 255]], 3, "no vector of bytes"),
    ],
)
def test_an_index_that_lies(index, nonzero, why):
    parts = {"delta": np.array(index, np.uint8), "values": np.ones(nonzero, np.float32)}
    with pytest.raises(ValueError, match=why):
        delta.mask(parts["delta"], (600,), nonzero)
    with pytest.raises(ValueError, match=why):
        delta.decode(parts, (600,), F32)


def test_an_index_of_another_dtype():
    for dtype in (np.int8, np.uint16, np.bool_):
        with pytest.raises(ValueError, match="no vector of bytes"):
            delta.mask(np.ones(1, dtype), (3,), 1)


def test_a_gap_has_no_second_spelling():
    """Of all indices of up to four bytes no two are the same mask of a tensor of 300, and each is what encode makes."""
    found = {}
    steps = [0, 1, 44, 253, 254, 255]
    for size in range(5):
        for number in range(len(steps) ** size):
            index = np.array([steps[number // len(steps) ** i % len(steps)] for i in range(size)], np.uint8)
            try:
                mask = delta.mask(index, (300,), int(np.count_nonzero(index != 255)))
            except ValueError:
                continue
            assert found.setdefault(mask.digest, index) is index
            assert np.array_equal(encode("delta", ones(mask), mask)["delta"], index)
    assert len(found) > 20


@pytest.mark.parametrize(("kept", "expected"), [(999, "delta"), (1000, "bitmask"), (1001, "bitmask")])
def test_the_smaller_is_chosen_and_of_equals_the_older(kept, expected):
    """8000 elements are 1000 bytes as a bitmask; and no gap between those kept has an escape."""
    mask = mask_of(8000, *(8000 * i // kept for i in range(kept)))
    assert encode("delta", ones(mask), mask)["delta"].size == kept
    assert smallest(mask) == expected


@pytest.mark.parametrize(("kept", "expected"), [(77, "delta"), (78, "bitmask"), (79, "bitmask")])
def test_escapes_count_too(kept, expected):
    """640 elements are 80 bytes as a bitmask. After the first 77 of them there is room for two escapes."""
    mask = mask_of(640, *range(kept))
    assert encode("delta", ones(mask), mask)["delta"].size == kept + 2
    assert smallest(mask) == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, 600), max_size=30), st.integers(0, 600))
def test_no_other_format_is_smaller(gaps, tail):
    kept = [sum(gaps[:i]) + i + gap for i, gap in enumerate(gaps)]
    mask = mask_of(kept[-1] + 1 + tail if kept else tail, *kept)
    sizes = {
        name: sum(part.nbytes for part in encode(name, ones(mask), mask).values()) for name in ("bitmask", "delta")
    }
    assert smallest(mask) == min(sizes, key=sizes.get)
