"""Every sparse format: what is encoded comes back bit for bit, and parts that contradict themselves are refused."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPES
from sift_cli.registry import names
from sift_cli.sparsity import formats

every_format = pytest.mark.parametrize("name", names("sift_cli.sparsity.formats"))


@st.composite
def masked(draw):
    """A tensor of any dtype made of random bytes (so of NaN payloads, -0.0 and subnormals too) and a mask for it."""
    dtype = draw(st.sampled_from([d for d in DTYPES.values() if d != np.bool_]))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    count = int(np.prod(shape, dtype=int))
    raw = np.frombuffer(draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize)), np.uint8)
    kept = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    bits = raw.copy().reshape(count, dtype.itemsize)
    bits[~kept] = 0
    return bits.reshape(-1).view(dtype).reshape(shape), kept.reshape(shape)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@every_format
@given(masked())
def test_decode_undoes_encode_bit_for_bit(name, tensor):
    array, kept = tensor
    codec = formats.get(name)
    parts = formats.encode(name, array, Mask.from_bool(kept))
    assert same_bits(codec.decode(parts, array.shape, array.dtype), array)
    assert np.array_equal(codec.mask(parts[name], array.shape, int(kept.sum())).to_bool(), kept)


@every_format
@given(masked())
def test_layout_tells_the_parts_before_they_are_made(name, tensor):
    array, kept = tensor
    codec = formats.get(name)
    parts = formats.encode(name, array, Mask.from_bool(kept))
    layout = codec.layout(array.shape, array.dtype, int(kept.sum()))
    assert parts.keys() == layout.keys() == {name, "values"}
    for part, value in parts.items():
        assert layout[part].fits(value.dtype, value.shape)
        assert not layout[part].fits(value.dtype, (*value.shape, 1))
        assert not layout[part].fits(np.dtype(np.complex64), value.shape) or value.dtype == np.complex64
        beyond = layout[part].lengths[-1] + 1, layout[part].lengths[0] - 1
        assert not any(layout[part].fits(value.dtype, (length,)) for length in beyond)


@every_format
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (0, 7), (7, 0), (1,), (8,), (3, 5), (9, 1)], ids=str)
@pytest.mark.parametrize("density", ["none", "all", "last"])
def test_edges(name, dtype, shape, density):
    array = np.ones(shape, dtype)
    kept = np.full(shape, density == "all")
    if density == "last" and kept.size:
        kept.reshape(-1)[-1] = True
    array = np.where(kept, array, np.zeros((), dtype)).astype(dtype)
    codec = formats.get(name)
    parts = formats.encode(name, array, Mask.from_bool(kept))
    assert same_bits(codec.decode(parts, shape, np.dtype(dtype)), array)
    assert codec.mask(parts[name], shape, int(kept.sum())).nonzero == int(kept.sum())


@every_format
def test_kept_zeros_and_nans_survive_and_stay_kept(name):
    values = np.array([0x00000000, 0x80000000, 0x7FC00001, 0xFFC0BEEF, 0x7F800000, 0x00000001], np.uint32)
    array = np.zeros(12, np.float32)
    array[::2] = values.view(np.float32)
    kept = np.arange(12) % 2 == 0
    codec = formats.get(name)
    parts = formats.encode(name, array, Mask.from_bool(kept))
    decoded = codec.decode(parts, (12,), np.dtype(np.float32))
    assert decoded.view(np.uint32)[::2].tolist() == values.tolist()
    assert np.array_equal(codec.mask(parts[name], (12,), 6).to_bool(), kept)


@every_format
@pytest.mark.parametrize("lost", [1.0, np.nan, np.inf, 1e-45])
def test_a_masked_value_is_never_dropped_silently(name, lost):
    array = np.array([1, lost, 0], np.float32)
    with pytest.raises(ValueError, match="1 masked weights"):
        formats.encode(name, array, Mask.from_bool(np.array([True, False, True])))


@every_format
def test_strided_input_is_read_in_row_major_order(name):
    array = np.arange(1, 13, dtype=ml_dtypes.bfloat16).reshape(3, 4).T
    codec = formats.get(name)
    parts = formats.encode(name, array, Mask.from_bool(np.ones((4, 3), bool)))
    assert same_bits(codec.decode(parts, (4, 3), array.dtype), np.ascontiguousarray(array))


@every_format
@given(st.data())
def test_damaged_parts_are_refused(name, data):
    """Every part in turn: an element more, one less, another dtype, another rank, missing, an unknown one beside it."""
    codec = formats.get(name)
    kept = np.arange(20) % 3 == 0
    parts = formats.encode(name, np.where(kept, 1, 0).astype(np.float32), Mask.from_bool(kept))
    part = data.draw(st.sampled_from(sorted(parts)))
    value = parts[part]
    damaged = data.draw(
        st.sampled_from(
            [
                {**parts, part: np.append(value, value[-1:])},
                {**parts, part: value[:-1]},
                {**parts, part: value.astype(np.float64)},
                {**parts, part: value.reshape(1, -1)},
                {k: v for k, v in parts.items() if k != part},
                {**parts, "extra": value},
            ]
        )
    )
    with pytest.raises(ValueError, match=r"parts|keeps|needs|values|bits"):
        codec.decode(damaged, (20,), np.dtype(np.float32))


def test_an_unknown_format_is_named():
    with pytest.raises(ValueError, match="unknown sparse format 'nope'"):
        formats.get("nope")


@every_format
@pytest.mark.parametrize("numel", [2**20 - 1, 2**20, 2**20 + 1, 2**21 + 9])
def test_pieces_join_where_a_mask_is_cut(name, numel):
    """A mask is read 2²⁰ elements at a time: gaps across a cut, an empty piece, and a kept element on either side."""
    kept = np.zeros(numel, bool)
    kept[[3, 2**20 - 2, numel - 1]] = True
    array = np.where(kept, np.arange(numel, dtype=np.float32), 0).astype(np.float32)
    mask = Mask.from_bool(kept)
    parts = formats.encode(name, array, mask)
    assert same_bits(formats.get(name).decode(parts, array.shape, array.dtype), array)
    assert parts[name].size == formats.index_size(name, mask)
    assert parts["values"].tolist() == np.flatnonzero(kept).tolist()
