"""The bitmask format, byte by byte as docs/sparse-formats.md defines it."""

import ml_dtypes
import numpy as np
import pytest

from sift_cli.core.masks import Mask
from sift_cli.sparsity.formats import bitmask, encode

F32 = np.dtype(np.float32)


def test_bytes_of_a_known_tensor():
    # Row-major elements 0, 3, 8 and 9 of ten: bits 0 and 3 of the first byte, bits 0 and 1 of the second.
    array = np.array([[1.5, 0, 0, -2, 0], [0, 0, 0, -0.0, 4]], np.float32)
    kept = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 1, 1]], bool)
    parts = encode("bitmask", array, Mask.from_bool(kept))
    assert parts["bitmask"].tobytes() == bytes([0b00001001, 0b00000011])
    assert parts["values"].tobytes() == bytes.fromhex("0000c03f 000000c0 00000080 00008040")


def test_bytes_of_a_known_bfloat16_tensor():
    array = np.array([0, 1, 0, -2], ml_dtypes.bfloat16)
    parts = encode("bitmask", array, Mask.from_bool(array != 0))
    assert (parts["bitmask"].tobytes(), parts["values"].tobytes()) == (b"\x0a", bytes.fromhex("803f 00c0"))


def test_decode_of_known_bytes():
    parts = {"bitmask": np.array([0x81, 0x02], np.uint8), "values": np.array([7, -0.0, 9], np.float32)}
    decoded = bitmask.decode(parts, (2, 5), F32)
    expected = np.zeros(10, np.float32)
    expected[[0, 7, 9]] = [7, -0.0, 9]
    assert decoded.tobytes() == expected.tobytes()


def test_size_is_an_eighth_of_a_byte_a_weight_and_the_kept_values():
    kept = np.zeros((576, 1000), bool)
    kept.reshape(-1)[:57_600] = True
    parts = encode("bitmask", kept.astype(np.float32), Mask.from_bool(kept))
    assert sum(part.nbytes for part in parts.values()) == 576_000 // 8 + 4 * 57_600  # 0.131 of 2,304,000


@pytest.mark.parametrize(
    ("bits", "values", "why"),
    [
        ([0xFF], 8, "needs 2 bytes"),
        ([0xFF, 0x03, 0x00], 10, "needs 2 bytes"),
        ([0xFF, 0x07], 11, "bits are set after the last of the 10 elements"),
        ([0xFF, 0x83], 11, "bits are set after the last of the 10 elements"),
        ([0xFF, 0x01], 10, "keeps 9 weights"),
        ([0xFF, 0x03], 9, "keeps 10 weights"),
    ],
)
def test_parts_that_contradict_each_other(bits, values, why):
    parts = {"bitmask": np.array(bits, np.uint8), "values": np.ones(values, np.float32)}
    with pytest.raises(ValueError, match=why):
        bitmask.mask(parts["bitmask"], (10,), values)
    with pytest.raises(ValueError, match=why):
        bitmask.decode(parts, (10,), F32)


def test_values_of_another_dtype():
    parts = {"bitmask": np.array([1], np.uint8), "values": np.ones(1, np.float16)}
    with pytest.raises(ValueError, match="float16 and not float32"):
        bitmask.decode(parts, (3,), F32)


def test_mask_of_another_shape():
    with pytest.raises(ValueError, match="not for a tensor of shape"):
        encode("bitmask", np.zeros((2, 3), np.float32), Mask.from_bool(np.zeros((3, 2), bool)))
