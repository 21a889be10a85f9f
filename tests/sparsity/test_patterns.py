"""Patterns against closed forms, and the transposable choice against exhaustive search and integer programming."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sift_cli.errors import PlanError
from sift_cli.sparsity.draw import random_keys
from sift_cli.sparsity.patterns import Gemm, _tiles, parse, syntax


def test_a_convolution_is_a_matrix_with_its_input_channels_innermost() -> None:
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    # Row of output 0: tap (0, 0) of inputs 0, 1, 2, then tap (0, 1), …
    expected = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert Gemm(weight.shape).matrix(weight)[0].tolist() == expected
    # transformers' Conv1D stores (inputs, outputs).
    assert Gemm((2, 3), 1).matrix(np.arange(6).reshape(2, 3)).tolist() == [[0, 3], [1, 4], [2, 5]]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_tensor_undoes_matrix(shape: list[int], data: st.DataObject) -> None:
    gemm = Gemm(tuple(shape), data.draw(st.integers(0, len(shape) - 1)))
    tensor = np.arange(gemm.numel).reshape(shape)
    assert gemm.matrix(tensor).shape == (gemm.rows, gemm.columns)
    assert np.array_equal(gemm.tensor(gemm.matrix(tensor)), tensor)


@pytest.mark.parametrize(
    ("text", "shape", "counts"),
    [
        ("unstructured", (3, 4), list(range(13))),
        ("2:4", (4, 10), [4 * 5]),  # two groups of 4, and one of 2 that keeps 1
        ("1:8", (3, 20), [3 * 2]),  # two groups of 8, and one of 4 that keeps ⌊4/8⌋ = 0
        ("2:8", (90, 90, 3, 3), [90 * 202]),  # ⌊810 · 2/8⌋ = 202
        ("4:8", (5, 7), []),
        ("2:4", (6, 1, 2, 2), [12]),
        ("2:8T", (16, 24), [6 * 16]),
        # One whole tile keeps 16, 2 rows of 8 keep 4, 8 rows of 3 keep 6, and 2 of 3 keep ⌊12/8⌋ = 1.
        ("2:8T", (10, 11), [16 + 4 + 6 + 1]),
        ("1:8T", (8, 7), []),
        # 7 × 9 = 63 weights, of which 1 × 2 blocks of 16 leave 31 over.
        ("block4x4", (7, 9), [31, 47, 63]),
        ("block4x4", (8, 8), [0, 16, 32, 48, 64]),
        ("block4x4", (3, 9), []),
        ("block1x4", (2, 5), [2, 6, 10]),
    ],
)
def test_what_can_be_kept(text: str, shape: tuple[int, ...], counts: list[int]) -> None:
    assert list(parse(text).feasible(Gemm(shape))) == counts


@pytest.mark.parametrize(
    "text", ["2:4x", "4:4", "0:4", "5:4", "2:4t", "block", "block0x4", "block4", "", "../2:4", "²:4"]
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(PlanError, match="no pattern"):
        parse(text)
    assert "2:8T" in syntax()


@given(st.integers(0, 60), st.integers(0, 2**40))
def test_unstructured_masks_keep_the_lowest_keys(nonzero: int, seed: int) -> None:
    mask = parse("unstructured").draw(Gemm((5, 3, 2, 2)), nonzero, seed=seed, name="w")
    order = np.argsort(random_keys((5, 3, 2, 2), seed=seed, name="w"), axis=None, kind="stable")
    assert set(np.flatnonzero(mask.to_bool())) == set(order[:nonzero])


def test_groups_lie_along_input_channels() -> None:
    mask = parse("2:4").draw(Gemm((8, 4, 3, 3)), 8 * 9 * 2, seed=0, name="w").to_bool()
    assert (mask.sum(axis=1) == 2).all()
    mask = parse("2:4").draw(Gemm((4, 8), 1), 16, seed=0, name="w").to_bool()
    assert (mask.sum(axis=0) == 2).all()


@pytest.mark.parametrize("text", ["1:4", "2:4", "1:4T", "2:4T", "block2x2"])
def test_every_position_is_as_likely(text: str) -> None:
    pattern, gemm = parse(text), Gemm((4, 4))
    count = pattern.feasible(gemm)[1 if text.startswith("block") else 0]
    counts = sum(pattern.draw(gemm, count, seed=seed, name="w").to_bool().astype(int) for seed in range(4000))
    share = count / 16
    assert np.abs(np.asarray(counts) - 4000 * share).max() < 5 * np.sqrt(4000 * share * (1 - share))


@given(st.lists(st.integers(-3, 3), min_size=12, max_size=12), st.integers(0, 12))
def test_unstructured_keeps_the_largest_and_of_equal_ones_the_first(values: list[int], nonzero: int) -> None:
    weights = np.array(values, np.float32).reshape(3, 4)
    kept = parse("unstructured").select(Gemm((3, 4)), weights, nonzero).to_bool().reshape(-1)
    assert set(np.flatnonzero(kept)) == set(sorted(range(12), key=lambda i: (-abs(values[i]), i))[:nonzero])


@given(st.lists(st.integers(-3, 3), min_size=22, max_size=22))
def test_nm_keeps_the_largest_of_each_group(values: list[int]) -> None:
    kept = parse("2:4").select(Gemm((2, 11)), np.array(values, np.float32).reshape(2, 11), 10).to_bool()
    for row in range(2):
        for start, size, count in ((0, 4, 2), (4, 4, 2), (8, 3, 1)):
            group = [abs(v) for v in values[row * 11 + start : row * 11 + start + size]]
            best = sorted(range(size), key=lambda i: (-group[i], i))[:count]
            assert np.flatnonzero(kept[row, start : start + size]).tolist() == sorted(best)


def test_block_keeps_the_heaviest_blocks_and_the_edge() -> None:
    weights = np.ones((5, 6), np.float64)
    weights[2:4, 0:2] = 2
    kept = parse("block2x2").select(Gemm((5, 6)), weights, 6 + 2 * 4).to_bool()
    expected = np.zeros((5, 6), bool)
    expected[4] = expected[2:4, 0:2] = expected[0:2, 0:2] = True  # of equal blocks the first
    assert np.array_equal(kept, expected)
    kept[4, 5] = False
    assert parse("block2x2").violations(Gemm((5, 6)), kept) == 1


def test_a_weight_that_is_not_a_number_counts_as_0() -> None:
    weights = np.array([[np.nan, 1, 0.5, np.inf]], np.float32)
    for text in ("unstructured", "2:4"):
        assert parse(text).select(Gemm((1, 4)), weights, 2).to_bool().tolist() == [[False, True, False, True]]
    weights = np.array([[np.inf, 1, 2, 3]] * 4, np.float64) - np.diag([np.nan, 0, 0, 0])
    assert parse("1:4T").select(Gemm((4, 4)), weights, 4).to_bool()[0, 0] == False  # noqa: E712


def all_masks(size: int, keep: int) -> np.ndarray:
    """Every size × size mask with ``keep`` in each row and column."""
    rows = [np.isin(range(size), chosen) for chosen in itertools.combinations(range(size), keep)]
    masks = np.array([np.array(mask) for mask in itertools.product(rows, repeat=size)])
    return masks[(masks.sum(axis=1) == keep).all(axis=1)]


@pytest.mark.parametrize(("keep", "number"), [(1, 24), (2, 90), (3, 24)])
@settings(max_examples=60)
@given(data=st.data())
def test_transposable_is_the_best_of_all_4x4_masks(keep: int, number: int, data: st.DataObject) -> None:
    masks = all_masks(4, keep)
    assert len(masks) == number
    largest = data.draw(st.sampled_from([1, 3, 100]))
    weights = np.array(data.draw(st.lists(st.integers(-largest, largest), min_size=16, max_size=16))).reshape(4, 4)
    kept = parse(f"{keep}:4T").select(Gemm((4, 4)), weights.astype(np.float64), 4 * keep).to_bool()
    # Integers up to 100, scaled to 2**40 of the largest, are rounded by less than could change their order.
    assert np.abs(weights)[kept].sum() == (np.abs(weights) * masks).sum(axis=(1, 2)).max()


def by_integer_program(gains: np.ndarray, bounds: _tiles.Bounds) -> int:
    """The best gain of one tile, from HiGHS' branch and bound."""
    optimize = pytest.importorskip("scipy.optimize")
    height, width = gains.shape
    rows, columns = np.kron(np.eye(height), np.ones(width)), np.kron(np.ones(height), np.eye(width))
    limits = [
        optimize.LinearConstraint(rows, 0, bounds.row),
        optimize.LinearConstraint(columns, 0, bounds.column),
        optimize.LinearConstraint(np.ones((1, height * width)), bounds.total, bounds.total),
    ]
    done = optimize.milp(
        -gains.reshape(-1), constraints=limits, integrality=np.ones(gains.size), bounds=optimize.Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )  # fmt: skip
    assert done.success
    return round(-done.fun)


@pytest.mark.parametrize("text", ["1:8T", "2:8T", "4:8T", "3:5T"])
def test_transposable_is_the_best_of_an_integer_program_at_the_edges_too(text: str) -> None:
    pattern: Any = parse(text)
    random = np.random.default_rng(0)
    size = pattern.group
    for height, width in [(size, size), (size, 3), (2, size), (3, 2), (1, size), (4, 4), (1, 1)]:
        bounds = pattern.bounds(height, width)
        gains = random.integers(0, 1000, (12, height, width))
        for tile, best in zip(gains, _tiles.best(gains, bounds), strict=True):
            assert best.sum() == bounds.total
            assert best.sum(axis=1).max() <= bounds.row
            assert best.sum(axis=0).max() <= bounds.column
            assert int(tile[best].sum()) == by_integer_program(tile, bounds)


def plain_greedy(gains: np.ndarray, keep: int) -> np.ndarray:
    taken = np.zeros(gains.shape, bool)
    for place in np.argsort(-gains.reshape(-1), kind="stable"):
        i, j = divmod(int(place), gains.shape[1])
        taken[i, j] = taken[i].sum() < keep and taken[:, j].sum() < keep
    return taken


@pytest.mark.parametrize(("keep", "short", "quality"), [(1, 0.0, 0.966), (2, 0.12, 0.976), (4, 0.52, 0.988)])
def test_greedy_completes_what_plain_greedy_leaves_short(keep: int, short: float, quality: float) -> None:
    """On |N(0, 1)|: the share of tiles that plain greedy leaves short and the share of the best gain it reaches are
    measured facts; repaired, no tile is short, complete ones are as they were, and no quality is lost."""
    gains = np.rint(np.abs(np.random.default_rng(1).standard_normal((500, 8, 8))) * 2**36).astype(np.int64)
    bounds = _tiles.Bounds(keep, keep, 8 * keep)
    repaired, best = _tiles.greedy(gains, bounds), _tiles.best(gains, bounds)
    plain = np.array([plain_greedy(tile, keep) for tile in gains])
    complete = plain.sum(axis=(1, 2)) == 8 * keep
    assert abs((~complete).mean() - short) < 4 * np.sqrt(short * (1 - short) / 500) + 1e-9
    assert np.array_equal(repaired[complete], plain[complete])
    for taken in (repaired, best):
        assert (taken.sum(axis=1) == keep).all()
        assert (taken.sum(axis=2) == keep).all()
    shares = (gains * repaired).sum(axis=(1, 2)) / (gains * best).sum(axis=(1, 2))
    assert shares.max() <= 1
    assert shares.mean() > quality - 4 * shares.std() / np.sqrt(500)


@settings(max_examples=200)
@given(
    st.integers(2, 6), st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 10**9])
)
def test_best_is_never_less_than_greedy_and_both_are_complete(
    height: int, width: int, keep: int, seed: int, largest: int
) -> None:
    pattern: Any = parse(f"{keep}:6T")
    bounds = pattern.bounds(height, width)
    gains = np.random.default_rng(seed).integers(0, largest + 1, (7, height, width))
    totals = []
    for taken in (_tiles.greedy(gains, bounds), _tiles.best(gains, bounds)):
        assert (taken.sum(axis=(1, 2)) == bounds.total).all()
        assert taken.sum(axis=2).max() <= bounds.row
        assert taken.sum(axis=1).max() <= bounds.column
        totals.append((gains * taken).sum(axis=(1, 2)))
    assert (totals[0] <= totals[1]).all()


def test_the_transpose_of_a_transposable_mask_has_the_pattern() -> None:
    pattern = parse("2:8T")
    mask = pattern.draw(Gemm((20, 27)), pattern.feasible(Gemm((20, 27)))[0], seed=3, name="w").to_bool()
    assert pattern.violations(Gemm((27, 20)), np.ascontiguousarray(mask.T)) == 0
    assert parse("2:8").violations(Gemm((16, 24)), mask[:16, :24]) == 0
    assert parse("2:8").violations(Gemm((24, 16)), np.ascontiguousarray(mask[:16, :24].T)) == 0
