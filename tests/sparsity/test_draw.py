from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from masks import random_mask

from sift_cli.sparsity.draw import block_mask, lowest, random_keys


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.fractions(0, 1), st.integers(0, 2**40))
def test_the_count_is_exact(shape: list[int], share: object, seed: int) -> None:
    size = int(np.prod(shape))
    nonzero = int(size * share)  # type: ignore[operator]
    mask = random_mask(tuple(shape), nonzero, seed=seed, name="w")
    assert mask.nonzero == nonzero == int(mask.to_bool().sum())


def test_every_position_is_as_likely() -> None:
    # 2,000 masks of 3 in 12: each position is kept 500 times on average, with a standard deviation of 19.4.
    counts = sum(random_mask((3, 4), 3, seed=seed, name="w").to_bool().astype(int) for seed in range(2000))
    assert np.abs(np.asarray(counts) - 500).max() < 5 * 19.4


def test_names_and_seeds_give_other_masks() -> None:
    masks = {random_mask((64, 9), 60, seed=s, name=n).bits.tobytes() for s in (0, 1) for n in ("a", "b")}
    assert len(masks) == 4


def test_the_same_mask_in_another_process() -> None:
    code = "from masks import random_mask;print(random_mask((50, 9), 45, seed=7, name='layer.w').bits.tobytes().hex())"
    other = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout.strip()
        for seed in ("1", "2")
    ]  # fmt: skip
    assert other == [random_mask((50, 9), 45, seed=7, name="layer.w").bits.tobytes().hex()] * 2


@pytest.mark.parametrize("nonzero", [-1, 13])
def test_impossible_counts_are_refused(nonzero: int) -> None:
    with pytest.raises(ValueError, match="12 positions"):
        lowest(random_keys((3, 4), seed=0, name="w"), nonzero)


def test_block() -> None:
    mask = block_mask((2, 3), (1, 2))
    assert mask.to_bool().tolist() == [[True, True, False], [False, False, False]]
    assert mask.rule == "block"
