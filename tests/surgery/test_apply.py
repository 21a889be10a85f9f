from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sift_cli.core.plan import AttachMask, FillTensor, ResizeAxis, SetAttribute
from sift_cli.errors import PlanError
from sift_cli.surgery import apply_edits


def linear() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.arange(6.0).reshape(2, 3) + 1)
    return net


def test_growing_keeps_old_values_in_the_leading_block_and_nothing_else() -> None:
    net = linear()
    grown, _ = apply_edits(net, [ResizeAxis("0.weight", 0, 2, 3), ResizeAxis("0.weight", 1, 3, 5)])
    expected = torch.tensor([[1.0, 2, 3, 0, 0], [4, 5, 6, 0, 0], [0, 0, 0, 0, 0]])
    assert torch.equal(grown[0].weight, expected)  # type: ignore[index]
    assert net[0].weight.shape == (2, 3)  # type: ignore[index] # the original is another module


def test_tied_weights_grow_once_and_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    grown, _ = apply_edits(net, [ResizeAxis("0.weight", 0, 4, 6)])
    assert grown[0].weight is grown[1].weight  # type: ignore[index]
    assert grown[1].weight.shape == (6, 4)  # type: ignore[index]


def test_fill_touches_only_what_grew() -> None:
    edits = [ResizeAxis("0.weight", 0, 2, 4), FillTensor("0.weight", "constant", 7.0, grown_axis=0)]
    grown, _ = apply_edits(linear(), edits)
    assert torch.equal(grown[0].weight, torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 7, 7], [7, 7, 7]]))  # type: ignore[index]


def test_a_masked_weight_is_plus_zero_whatever_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-1.0, float("nan"), float("inf"), 2.0]]))
    masked, masks = apply_edits(net, [AttachMask("0.weight", 1, "random", seed=3)])
    kept = masks["0.weight"].to_bool()[0]
    values = masked[0].weight.detach().numpy()[0]  # type: ignore[index]
    assert kept.sum() == 1
    assert values[~kept].tobytes() == np.zeros(3, np.float32).tobytes()


def test_a_block_mask_keeps_what_was_there() -> None:
    edits = [ResizeAxis("0.weight", 0, 2, 3), ResizeAxis("0.weight", 1, 3, 4), AttachMask("0.weight", 6, "block")]
    _, masks = apply_edits(linear(), edits)
    assert masks["0.weight"].to_bool().tolist() == [[True] * 3 + [False], [True] * 3 + [False], [False] * 4]


def test_normal_and_uniform_fills_have_their_parameters() -> None:
    net = nn.Sequential(nn.Linear(500, 400))
    normal, _ = apply_edits(net, [FillTensor("0.weight", "normal", 1.0, 0.5, seed=1)])
    weight = normal[0].weight.detach().double()  # type: ignore[index]
    # 200,000 draws: the mean is off by more than 5 standard errors once in a million.
    assert abs(float(weight.mean()) - 1.0) < 5 * 0.5 / 200_000**0.5
    assert abs(float(weight.std()) - 0.5) < 5 * 0.5 / (2 * 200_000) ** 0.5
    uniform, _ = apply_edits(net, [FillTensor("0.weight", "uniform", -2.0, 1.0, seed=1)])
    weight = uniform[0].weight.detach().double()  # type: ignore[index]
    assert -2.0 <= float(weight.min()) < -1.999
    assert 0.999 < float(weight.max()) <= 1.0


def test_a_truncated_normal_fill_is_the_conditional_distribution() -> None:
    net = nn.Sequential(nn.Linear(500, 400))
    filled, _ = apply_edits(net, [FillTensor("0.weight", "trunc_normal", 1.0, 0.5, seed=1)])
    scaled = (filled[0].weight.detach().double() - 1.0) / 0.5  # type: ignore[index]
    assert 1.999 < float(scaled.abs().max()) <= 2.000001
    # Given |x| ≤ 2: variance 1 − 4 φ(2)/erf(√2), and P(|x| ≤ 1) = erf(√½)/erf(√2); to 5 standard errors.
    variance = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
    assert abs(float(scaled.mean())) < 5 * (variance / 200_000) ** 0.5
    share = math.erf(0.5**0.5) / math.erf(2**0.5)
    assert abs(float((scaled.abs() <= 1).double().mean()) - share) < 5 * (share * (1 - share) / 200_000) ** 0.5


def test_rows_can_be_filled_alone() -> None:
    edits = [
        FillTensor("0.weight", "normal", 0.0, 1.0, seed=1),
        FillTensor("0.weight", "constant", 7.0, start=1, stop=2),
    ]
    whole, _ = apply_edits(nn.Sequential(nn.Linear(3, 4)), edits[:1])
    rows, _ = apply_edits(nn.Sequential(nn.Linear(3, 4)), edits)
    expected = whole[0].weight.detach().clone()  # type: ignore[index]
    expected[1] = 7.0
    assert torch.equal(rows[0].weight, expected)  # type: ignore[index]
    # Rows drawn from a distribution of their own do not repeat what the first rows drew.
    again = [FillTensor("0.weight", "normal", 0.0, 1.0, seed=1, start=start, stop=start + 2) for start in (0, 2)]
    halves = apply_edits(nn.Sequential(nn.Linear(3, 4)), again)[0][0].weight  # type: ignore[index]
    assert not torch.equal(halves[:2], halves[2:])


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (ResizeAxis("0.weight", 0, 5, 6), r"from 5 to 6, but its shape is \(2, 3\)"),
        (ResizeAxis("0.weight", 2, 3, 6), "axis 2"),
        (ResizeAxis("0.weight", 0, 2, 1), "from 2 to 1"),
        (ResizeAxis("nowhere.weight", 0, 2, 3), "'nowhere.weight' that the model does not have"),
        (SetAttribute("0", "in_features", 4, 5), "but it is 3"),
        (SetAttribute("5", "in_features", 3, 5), "module '5'"),
        (FillTensor("0.weight", "constant", stop=3), "rows up to 3"),
        (AttachMask("0.weight", 7, "random"), "keeps 7 weights"),
        (AttachMask("0.weight", 5, "block"), "its block has 6"),
    ],
)
def test_a_plan_for_another_model_is_refused(edit: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        apply_edits(linear(), [edit])


def test_on_meta_nothing_is_drawn() -> None:
    edits = [
        ResizeAxis("0.weight", 0, 2, 3),
        FillTensor("0.weight", "normal", 0.0, 1.0),
        AttachMask("0.weight", 2, "random"),
    ]
    grown, masks = apply_edits(linear().to("meta"), edits)
    assert grown[0].weight.is_meta  # type: ignore[index]
    assert not masks


def test_repeat_wants_equal_slices() -> None:
    net = nn.Module()
    net.register_buffer("filter", torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    edits = [ResizeAxis("filter", 0, 2, 4), FillTensor("filter", "repeat", grown_axis=0)]
    assert torch.equal(apply_edits(net, edits)[0].get_buffer("filter"), torch.tensor([[1.0, 2.0]] * 4))
    net.get_buffer("filter")[1, 1] = 3.0
    with pytest.raises(PlanError, match="cannot widen the buffer filter"):
        apply_edits(net, edits)
