"""The cardinality of the search space: the paper's table 1, by hand, against what is counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest

from sift_cli import surgery
from sift_cli.core.cardinality import log2_masks
from sift_cli.models import LoadedModel
from sift_cli.transforms import TransformOptions, decide
from sift_cli.verify import Evidence
from sift_cli.verify.checks import search_space

#: (D_in, D_out) of the hidden layers of TinyResNet, c_in·9 × c_out. Its shortcut is one of them for wide alone.
HIDDEN = [(144, 16), (144, 16), (144, 32), (288, 32)]
SHORTCUT = (16, 32)


def counted(model: LoadedModel, kind: str, sparsity: str) -> tuple[int, bool]:
    made = surgery.transform(model, decide(kind, model, TransformOptions(Fraction(sparsity))))
    (claim,) = search_space.measure(Evidence(model, made, made))
    return claim.after, claim.held


@pytest.mark.parametrize("sparsity", ["1/2", "3/4", "9/10"])
def test_table_1(sparsity: str, tiny: Callable[..., LoadedModel]) -> None:
    s = Fraction(sparsity)
    dense = sum(inputs * outputs for inputs, outputs in HIDDEN)
    assert counted(tiny(), "parallel", sparsity) == (dense / (1 - s), True)
    assert counted(tiny(), "doped", sparsity) == (dense, True)
    # The rank is rounded up: for each layer less than D_in + D_out more than D_in·D_out / (1−s).
    factorized, held = counted(tiny(), "factorized", sparsity)
    assert held
    assert 0 <= factorized - dense / (1 - s) < sum(map(sum, HIDDEN))


def test_table_1_of_wide(tiny: Callable[..., LoadedModel]) -> None:
    dense = sum(inputs * outputs for inputs, outputs in [*HIDDEN, SHORTCUT])
    assert counted(tiny(), "wide", "3/4") == (4 * dense, True)  # k = 2
    # k = √2: 16 and 32 channels become 22 and 44 or more, no more than √2 times as many.
    wide, held = counted(tiny(), "wide", "1/2")
    assert held
    assert (22 / 16) ** 2 * dense <= wide <= 2 * dense


@pytest.mark.parametrize("kind", ["parallel", "factorized", "doped", "wide"])
def test_a_rank_that_is_not_the_planned_one_is_noticed(kind: str, tiny: Callable[..., LoadedModel]) -> None:
    """The formula is the plan's and the count is the artifact's."""
    model = tiny()
    planned, other = (decide(kind, model, TransformOptions(Fraction(s))) for s in ("3/4", "1/2"))
    made = surgery.transform(model, other)
    (claim,) = search_space.measure(Evidence(model, replace(made, plan=planned), made))
    assert claim.held == (kind == "doped")  # its search space is the same at any sparsity


@pytest.mark.parametrize(("weights", "kept"), [(1, 0), (1, 1), (10, 3), (1000, 250), (20_000, 9_999)])
def test_number_of_masks(weights: int, kept: int) -> None:
    exact = math.comb(weights, kept)
    shift = max(exact.bit_length() - 900, 0)  # log2 of a float ends at 2**1024
    assert log2_masks(weights, kept) == pytest.approx(math.log2(exact >> shift) + shift, rel=1e-9, abs=1e-9)
