"""The rules against the papers' algorithms, written down once more in numpy, one weight at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sift_cli.core.seeds import generator
from sift_cli.sparsity.patterns import Gemm, parse
from sift_cli.training.rules import Layer, find


def by_hand(weight: np.ndarray, mask: np.ndarray, scores: np.ndarray, fraction: float) -> np.ndarray:
    """Evci et al., algorithm 1, one weight at a time; of equal ones the first stay and the first grow."""
    new = mask.copy()
    active, free = np.flatnonzero(mask), np.flatnonzero(~mask)
    exchanged = min(int(fraction * len(active)), len(free))
    for place in sorted(active, key=lambda i: (abs(weight[i]), -i))[:exchanged]:
        new[place] = False
    for place in sorted(free, key=lambda i: (-scores[i], i))[:exchanged]:
        new[place] = True
    return new


def layer(
    weight: np.ndarray, mask: np.ndarray, gradient: np.ndarray, fraction: float, target: int | None = None
) -> Layer:
    tensors = (torch.from_numpy(array) for array in (weight * mask, mask, gradient * ~mask))
    count = int(mask.sum()) if target is None else target
    return Layer(*tensors, fraction, count, generator(0, "w", "update 1"), parse("unstructured"), Gemm(weight.shape))


def after(rule: str, before: Layer) -> np.ndarray:
    update = find(rule).update(before)
    return (before.mask & ~update.dropped | update.grown).numpy()


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 60), fraction=st.floats(0, 1), ties=st.booleans())
def test_rigl(seed: int, size: int, fraction: float, ties: bool) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(size) < random.random()
    weight, gradient = (random.integers(-2, 3, size).astype(np.float32) if ties else
                        random.standard_normal(size).astype(np.float32) for _ in range(2))  # fmt: skip
    if not (gradient * ~mask).any():
        gradient[:] = 1
    assert np.array_equal(
        after("rigl", layer(weight, mask, gradient, fraction)), by_hand(weight * mask, mask, np.abs(gradient), fraction)
    )


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 60), fraction=st.floats(0, 1))
def test_set_drops_the_smallest_and_grows_by_its_generator(seed: int, size: int, fraction: float) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(size) < random.random()
    weight = random.standard_normal(size).astype(np.float32)
    scores = (generator(0, "w", "update 1").bit_generator.random_raw(size) >> np.uint64(11)) * 2.0**-53
    assert np.array_equal(
        after("set", layer(weight, mask, weight, fraction)), by_hand(weight * mask, mask, scores, fraction)
    )


def test_set_grows_everywhere() -> None:
    """1 of 16 free places grows in each of 800 updates: each place 50 times, within five standard deviations."""
    weight, mask = np.ones(32, np.float32), np.arange(32) < 16
    grown = np.zeros(32)
    for step in range(800):
        before = layer(weight, mask, weight, 1 / 16)
        before = Layer(**{**vars(before), "random": generator(0, "w", f"update {step}")})
        grown += find("set").update(before).grown.numpy()
    assert not grown[:16].any()
    assert grown.sum() == 800
    assert np.abs(grown[16:] - 50).max() < 5 * np.sqrt(50 * 15 / 16)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 60), share=st.floats(0, 1))
def test_gmp_keeps_the_largest(seed: int, size: int, share: float) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(size) < 0.7
    weight = random.standard_normal(size).astype(np.float32)
    target = int(share * mask.sum())
    kept = after("gmp", layer(weight, mask, weight, 0.3, target))
    largest = sorted(np.flatnonzero(mask), key=lambda i: -abs(weight[i]))[:target]
    assert np.flatnonzero(kept).tolist() == sorted(largest)


def test_kept_zeros_are_not_mistaken_for_free_places() -> None:
    """Weights that have just grown are 0 like the places that are free, and gradients can be 0 where weights are."""
    weight, gradient = np.zeros(8, np.float32), np.zeros(8, np.float32)
    mask = np.array([False, False, False, True, True, True, True, False])
    gradient[7] = 1
    kept = after("rigl", layer(weight, mask, gradient, 0.5))
    assert kept.tolist() == [True, False, False, True, True, False, False, True]


def test_what_was_dropped_waits() -> None:
    """The just dropped weights would have the largest gradient, and the places that were free grow all the same."""
    weight = np.array([1, 2, 3, 4, 0, 0, 0, 0], np.float32)
    mask = weight > 0
    tensors = (torch.from_numpy(array) for array in (weight, mask, np.array([9, 9, 9, 9, 1, 2, 3, 4], np.float32)))
    before = Layer(*tensors, 0.5, 4, generator(0, "w", "update 1"), parse("unstructured"), Gemm((8,)))
    assert after("rigl", before).tolist() == [False, False, True, True, False, False, True, True]


def test_a_layer_that_the_loss_does_not_reach_stays() -> None:
    weight, mask = np.arange(8, dtype=np.float32), np.arange(8) % 2 == 0
    assert np.array_equal(after("rigl", layer(weight, mask, np.zeros(8, np.float32), 0.5)), mask)


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
@settings(deadline=None)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0, 1))
def test_rigl_in_groups(pattern: str, seed: int, fraction: float) -> None:
    """N of M: the smallest weights of the whole layer go, and each group grows as many as it lost, by its own
    gradients; where it has not enough free places, the largest of those that should have gone stay."""
    random = np.random.default_rng(seed)
    kind, gemm = parse(pattern), Gemm((3, 24))
    count = kind.feasible(gemm)[0]
    mask = kind.draw(gemm, count, seed=seed, name="w").to_bool()
    weight, gradient = (random.standard_normal((3, 24)).astype(np.float32) for _ in range(2))
    tensors = (torch.from_numpy(array) for array in (weight * mask, mask, gradient * ~mask))
    found = after("rigl", Layer(*tensors, fraction, count, generator(0, "w", "u"), kind, gemm)).reshape(-1, kind.group)
    goes = set(sorted(np.flatnonzero(mask), key=lambda i: abs(weight.flat[i]))[: int(fraction * count)])
    for number, group in enumerate(found):
        places = range(number * kind.group, (number + 1) * kind.group)
        stay = [i for i in places if mask.flat[i] and i not in goes]
        free = sorted((i for i in places if not mask.flat[i]), key=lambda i: -abs(gradient.flat[i]))
        back = sorted((i for i in places if i in goes), key=lambda i: -abs(weight.flat[i]))
        expected = (stay + free + back)[: kind.keep]
        assert set(np.flatnonzero(group) + number * kind.group) == set(expected)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0, 1))
def test_rigl_in_blocks(seed: int, fraction: float) -> None:
    """Blocks go and grow whole, by their sums; never more weights than the fraction says."""
    random = np.random.default_rng(seed)
    kind, gemm = parse("block2x3"), Gemm((8, 12))
    mask = kind.draw(gemm, 48, seed=seed, name="w").to_bool()
    weight, gradient = (random.standard_normal((8, 12)).astype(np.float32) for _ in range(2))
    tensors = (torch.from_numpy(array) for array in (weight * mask, mask, gradient * ~mask))
    found = after("rigl", Layer(*tensors, fraction, 48, generator(0, "w", "u"), kind, gemm))

    def blocks(array: np.ndarray) -> np.ndarray:
        return array.reshape(4, 2, 4, 3).sum(axis=(1, 3)).reshape(-1)

    kept = by_hand(
        blocks(np.abs(weight) * mask), blocks(mask) > 0, blocks(np.abs(gradient)), int(fraction * 48) // 6 / 8
    )
    assert np.array_equal(blocks(found) > 0, kept)
    assert set(blocks(found)) <= {0, 6}
