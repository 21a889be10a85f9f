"""Every pattern: masks of exactly the number asked for, of the pattern, the same in every process. A pattern is under
test by the way that it says it is written."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sift_cli import registry
from sift_cli.sparsity.patterns import Gemm, parse, syntax

WRITTEN = (*syntax(), "4:8", "1:4T", "block2x3")
every_pattern = pytest.mark.parametrize("text", WRITTEN)
shapes = st.lists(st.integers(1, 20), min_size=1, max_size=4).filter(lambda shape: np.prod(shape) <= 3000)


def test_every_file_is_here() -> None:
    modules = registry.discover("sift_cli.sparsity.patterns")
    assert {type(parse(text)).__module__.rpartition(".")[2] for text in WRITTEN} == set(modules)


@every_pattern
def test_a_pattern_is_called_what_it_is_written(text: str) -> None:
    assert parse(text).name == text


@every_pattern
@given(shape=shapes, place=st.floats(0, 1), seed=st.integers(0, 2**62), axis=st.integers(0, 1))
def test_counts_are_exact(text: str, shape: list[int], place: float, seed: int, axis: int) -> None:
    pattern, gemm = parse(text), Gemm(tuple(shape), min(axis, len(shape) - 1))
    feasible = pattern.feasible(gemm)
    if not feasible:
        return
    count = feasible[int(place * (len(feasible) - 1))]
    assert 0 <= count <= gemm.numel
    if pattern.density is not None:
        assert count <= pattern.density * gemm.numel
    weights = np.random.default_rng(seed % 2**32).standard_normal(shape)
    for mask in (pattern.draw(gemm, count, seed=seed, name="w"), pattern.select(gemm, weights, count)):
        assert mask.nonzero == count
        assert mask.shape == gemm.shape
        assert pattern.violations(gemm, mask.to_bool()) == 0
    for wrong in {-1, gemm.numel + 1, *range(count - 2, count + 3)} - set(feasible):
        with pytest.raises(ValueError, match="cannot keep"):
            pattern.draw(gemm, wrong, seed=seed, name="w")


@every_pattern
@given(seed=st.integers(0, 1000))
def test_one_weight_more_or_moved_is_seen(text: str, seed: int) -> None:
    pattern, gemm = parse(text), Gemm((16, 6, 2, 2))
    if text == "unstructured":
        return
    feasible = pattern.feasible(gemm)
    kept = pattern.draw(gemm, feasible[len(feasible) // 2], seed=seed, name="w").to_bool()
    random = np.random.default_rng(seed)
    for inside in (True, False):
        changed = kept.copy().reshape(-1)
        changed[random.choice(np.flatnonzero(changed == inside))] ^= True
        assert pattern.violations(gemm, changed.reshape(kept.shape)) > 0
    moved = kept.copy().reshape(-1)
    moved[[random.choice(np.flatnonzero(moved)), random.choice(np.flatnonzero(~moved))]] ^= True
    # A weight moved within a group of N:M is as good; within a tile or out of a block nothing is.
    assert re.fullmatch(r"\d+:\d+", text) or pattern.violations(gemm, moved.reshape(kept.shape)) > 0


@every_pattern
@given(scale=st.sampled_from([2.0**-100, 0.5, 2.0**60]), seed=st.integers(0, 100))
def test_scale_and_sign_of_weights_do_not_matter(text: str, scale: float, seed: int) -> None:
    pattern, gemm = parse(text), Gemm((9, 17))
    feasible = pattern.feasible(gemm)
    count = feasible[len(feasible) // 3]
    weights = np.random.default_rng(seed).standard_normal((9, 17)).astype(np.float32)
    mask = pattern.select(gemm, weights, count)
    assert np.array_equal(pattern.select(gemm, -np.float32(scale) * weights, count).bits, mask.bits)


@every_pattern
def test_a_selection_beats_random_masks(text: str) -> None:
    pattern, gemm = parse(text), Gemm((24, 40))
    feasible = pattern.feasible(gemm)
    count = feasible[len(feasible) // 3]
    weights = np.random.default_rng(0).standard_normal((24, 40))
    selected = np.abs(weights)[pattern.select(gemm, weights, count).to_bool()].sum()
    for seed in range(50):
        drawn = pattern.draw(gemm, count, seed=seed, name="w").to_bool()
        assert np.abs(weights)[drawn].sum() < selected


def test_the_same_masks_in_another_process() -> None:
    code = (
        "import hashlib; from sift_cli.sparsity.patterns import Gemm, parse\n"
        f"for text in {WRITTEN!r}:\n"
        "    pattern, gemm = parse(text), Gemm((24, 6, 3, 3))\n"
        "    count = pattern.feasible(gemm)[len(pattern.feasible(gemm)) // 4]\n"
        "    print(pattern.draw(gemm, count, seed=7, name='layer.w').digest)\n"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(runs) == 1
    assert len(set(runs.pop().split())) == len(WRITTEN)
