"""FLOPs of a training against closed forms, and against the formulas of the papers."""

from __future__ import annotations

from fractions import Fraction

import loops
import nets
import pytest
import torch

import sift_cli
from sift_cli.flops.training import training_flops
from sift_cli.training import TrainingFlops

#: MACs of the net for one sample: its four layers; those that become sparse are in the middle.
DENSE, ENDS, MIDDLE = 6 * 16 + 16 * 24 + 24 * 20 + 20 * 4, 6 * 16 + 20 * 4, 16 * 24 + 24 * 20


def spent(rule: str, steps: int = 20, **options: object) -> TrainingFlops:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    original = options.pop("original", None)
    options = {"sparsity": 0.75, "total_steps": 20, "frequency": 4, "stop": 0.75, **options}
    sparsifier = sift_cli.sparsify(model, optimizer, rule, **options)
    loops.train(model, optimizer, 1, steps)
    return sparsifier.flops((torch.zeros(8, 6),), original=original)


@pytest.mark.parametrize("rule", ["static", "set"])
def test_three_passes_a_step(rule: str) -> None:
    found = spent(rule)
    assert found.sparse == found.total == 20 * 8 * 3 * 2 * (ENDS + MIDDLE // 4)
    assert found.dense == 20 * 8 * 3 * 2 * DENSE
    assert found.relative == pytest.approx((ENDS + MIDDLE / 4) / DENSE, rel=1e-15)


def test_rigl_pays_for_its_dense_gradients() -> None:
    """Updates after steps 4, 8 and 12 of a window that ends before 15: three times 2 f_S + f_D and not 3 f_S."""
    found = spent("rigl")
    assert found.gradients == 3 * 8 * 2 * (MIDDLE - MIDDLE // 4)
    forward, dense = 2 * 8 * (ENDS + MIDDLE // 4), 2 * 8 * DENSE
    assert found.total == 17 * 3 * forward + 3 * (2 * forward + dense)
    # The paper's average has ΔT sparse steps to each dense gradient, as there an update takes the place of a step.
    (rigl,) = (cost for cost in training_flops(dense, forward, interval=4).costs if cost.method == "rigl")
    assert Fraction(found.total, 3) == rigl.updating * 5 + 3 * forward * Fraction(5, 3)


def test_gmp_gets_cheaper() -> None:
    """All weights up to and with step 4, then as many as the cubic schedule leaves: Σ over the steps."""
    found = spent("gmp", steps=8)
    after_4 = sum(round(size * (1 - 0.75 * (1 - (1 - 4 / 12) ** 3))) for size in (384, 480))
    assert found.total == 8 * 3 * 2 * (8 * ENDS + 4 * MIDDLE + 4 * after_4)


def test_another_baseline() -> None:
    assert spent("static", original=1000).dense == 20 * 3 * 1000


def test_nothing_yet() -> None:
    assert spent("rigl", steps=0).to_json() == {
        "schema": "sift.training_spent/1",
        "unit": "FLOPs (2 × MACs), one batch a step",
        "steps": 0, "dense": 0, "sparse": 0, "dense_gradients": 0, "total": 0, "relative_to_dense": 0.0,
    }  # fmt: skip


def test_weights_are_used_where_they_are_used() -> None:
    """A convolution's weight counts once for each output position, also in a wrapped and compiled model."""
    model = nets.TinyResNet()
    wrapped = torch.compile(torch.nn.DataParallel(model), backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sift_cli.sparsify(wrapped, optimizer, "rigl", sparsity=0.5, total_steps=4, frequency=1, stop=1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    macs = nets.TinyResNet.MACS
    inner = sum(macs.values()) - macs["conv1"] - macs["fc"]
    found = sparsifier.flops((torch.zeros(2, 3, 8, 8),))
    assert found.sparse == 2 * 2 * 3 * 2 * (macs["conv1"] + macs["fc"] + inner // 2)
    assert found.gradients == 2 * 2 * 2 * (inner // 2)


def test_masks_of_others_count_as_they_are() -> None:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sift_cli.sparsify(model, optimizer, "static", sparsity=0.75).remove()
    one = sift_cli.Sparsifier(model, optimizer, "static", weights=["2.weight"])
    loops.train(model, optimizer, 1, 3)
    assert one.flops((torch.zeros(1, 6),)).total == 3 * 3 * 2 * (ENDS + MIDDLE // 4)
