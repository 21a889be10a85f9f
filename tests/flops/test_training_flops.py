"""Training FLOPs against the specification's numbers and against a sum over the steps of a training."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sift_cli.flops.training import TrainingReport, training_flops


def relative(report: TrainingReport) -> dict[str, Fraction]:
    return {cost.method: report.relative(cost) for cost in report.costs}


@pytest.mark.parametrize(("sparsity", "more"), [("1/2", "+0.25%"), ("3/4", "+0.74%"), ("9/10", "+2.2%")])
def test_rigl_on_an_iso_flop_transform(sparsity: str, more: str) -> None:
    """f_D = f_S / (1 − s), updates every 100 steps over 75 % of the training: the specification's three numbers."""
    dense = int(10**6 / (1 - Fraction(sparsity)))
    report = training_flops(dense, 10**6, original=10**6)
    digits = 1 if more == "+2.2%" else 2
    assert f"{float(relative(report)['rigl'] - 1):+.{digits}%}" == more
    assert relative(report)["static"] == relative(report)["set"] == 1
    assert relative(report)["dense"] == 1 / (1 - Fraction(sparsity))


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 50), st.integers(0, 4))
def test_rigl_is_the_average_over_its_steps(sparse: int, more: int, interval: int, quarters: int) -> None:
    dense = sparse + more
    window = Fraction(quarters, 4)
    # ΔT ordinary steps and one with the dense gradient: forward and the gradient of activations as always.
    round_of_updates = [3 * sparse] * interval + [2 * sparse + dense]
    updating, after = quarters * sum(round_of_updates), (4 - quarters) * 3 * sparse * len(round_of_updates)
    rigl = next(c for c in training_flops(dense, sparse, interval=interval, window=window).costs if c.method == "rigl")
    assert rigl.average == Fraction(updating + after, 4 * len(round_of_updates))


def test_pruning_is_the_average_over_its_steps() -> None:
    dense, sparse, steps = 1000, 100, 2000
    ramp = [dense - (dense - sparse) * (1 - (1 - (i + 0.5) / steps) ** 3) for i in range(steps)]
    pruning = next(c for c in training_flops(dense, sparse).costs if c.method == "pruning")
    assert float(pruning.updating) == pytest.approx(sum(2 * f + dense for f in ramp) / steps, rel=1e-6)
    assert pruning.after == 2 * sparse + dense


def test_a_dense_model_costs_the_same_in_every_way() -> None:
    assert set(relative(training_flops(123, 123)).values()) == {1}


@pytest.mark.parametrize(("interval", "window"), [(0, Fraction(1)), (5, Fraction(3, 2)), (5, Fraction(-1, 2))])
def test_refused(interval: int, window: Fraction) -> None:
    with pytest.raises(ValueError, match="training"):
        training_flops(2, 1, interval=interval, window=window)
