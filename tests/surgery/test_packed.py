"""Packed masks against bool ones, for every type of number and for sizes that fill no whole byte."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from masks import random_mask

from sift_cli.core.masks import Mask
from sift_cli.surgery.packed import PackedMask, pack

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8)


@given(shape=shapes, share=st.floats(0, 1), seed=st.integers(0, 100))
def test_the_mask_is_the_mask(shape: tuple[int, ...], share: float, seed: int) -> None:
    mask = random_mask(shape, int(share * math.prod(shape)), seed=seed, name="w")
    packed, kept = PackedMask.of(mask), torch.from_numpy(mask.to_bool())
    assert torch.equal(packed.kept(), kept)
    assert packed.kept().dtype == torch.bool
    assert torch.equal(pack(kept), torch.from_numpy(mask.bits))
    other = ~kept
    packed.set(other)
    assert torch.equal(packed.kept(), other)
    assert torch.equal(torch.from_numpy(mask.bits), pack(kept)), "the mask it was made of is another one"


@pytest.mark.parametrize("dtype", TYPES)
@given(shape=shapes, seed=st.integers(0, 100))
def test_clearing(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> None:
    mask = random_mask(shape, math.prod(shape) // 2, seed=seed, name="w")
    packed, kept = PackedMask.of(mask), torch.from_numpy(mask.to_bool())
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(50).to(dtype)
    outside, inside, double = values.clone(), values.clone(), values.double().clone()
    packed.clear_outside([outside, double])
    packed.clear_inside([inside])
    assert torch.equal(outside, values.masked_fill(~kept, 0))
    assert torch.equal(inside, values.masked_fill(kept, 0))
    assert torch.equal(double, values.double() * kept)


def test_what_is_cleared_is_plus_zero() -> None:
    packed = PackedMask.of(Mask.from_bool(torch.tensor([False] * 5 + [True] * 5).numpy()))
    odd = torch.tensor([-0.0, math.nan, math.inf, -math.inf, -1.0] * 2)
    packed.clear_outside([odd])
    assert odd[:5].tolist() == [0.0] * 5
    assert not odd[:5].signbit().any()
    assert [math.copysign(1, odd[5]), math.isnan(odd[6])] == [-1, True]
    assert odd[7:].tolist() == [math.inf, -math.inf, -1.0]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda packed: pickle.loads(pickle.dumps(packed))])
def test_a_copy_is_one_of_its_own(how: Callable[[PackedMask], PackedMask]) -> None:
    packed = PackedMask.of(random_mask((3, 5), 7, seed=0, name="w"), "block4x4", 1)
    copied, kept = how(packed), packed.kept()
    packed.set(~kept)
    assert torch.equal(copied.kept(), kept)
    assert (copied.shape, copied.pattern, copied.output_axis, copied.whole) == ((3, 5), "block4x4", 1, None)


def test_other_strides() -> None:
    weight = torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last)
    mask = random_mask((4, 6, 3, 3), 50, seed=0, name="w")
    expected = weight * torch.from_numpy(mask.to_bool())
    PackedMask.of(mask).clear_outside([weight])
    assert torch.equal(weight, expected)
    assert weight.is_contiguous(memory_format=torch.channels_last)
