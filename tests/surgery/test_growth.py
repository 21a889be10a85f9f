from __future__ import annotations

import pytest
import torch
from torch import nn

from sift_cli.core.plan import AttachMask, FillTensor, ResizeAxis
from sift_cli.errors import PlanError
from sift_cli.surgery import apply_edits


def linear() -> nn.Linear:
    """4 outputs in 2 parts, [0 1 | 2 3], and 2 inputs."""
    layer = nn.Linear(2, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]))
        layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return layer


ROWS = ResizeAxis("weight", 0, 4, 6, parts=2)
COLUMNS = ResizeAxis("weight", 1, 2, 3)


def test_each_part_grows_at_its_end() -> None:
    grown, masks = apply_edits(linear(), [ROWS, COLUMNS, AttachMask("weight", 8, "block")])
    expected = [[1, 2, 0], [3, 4, 0], [0, 0, 0], [5, 6, 0], [7, 8, 0], [0, 0, 0]]
    assert grown.weight.tolist() == expected
    assert masks["weight"].to_bool().astype(int).tolist() == [[int(v > 0) for v in row] for row in expected]


def test_what_is_new_is_filled_in_each_part() -> None:
    grown, _ = apply_edits(linear(), [ROWS, FillTensor("weight", "constant", 9.0, grown_axis=0)])
    assert grown.weight[:, 0].tolist() == [1, 3, 9, 5, 7, 9]
    drawn, _ = apply_edits(linear(), [ROWS, FillTensor("weight", "uniform", 1.0, 2.0, grown_axis=0, seed=1)])
    assert drawn.weight[[0, 1, 3, 4]].tolist() == linear().weight.tolist()
    assert (drawn.weight[[2, 5]] >= 1).all()


def test_a_buffer_repeats_in_parts() -> None:
    net = nn.Module()
    net.register_buffer("filter", torch.tensor([[2.0], [2.0]]))
    edits = [ResizeAxis("filter", 0, 2, 4, parts=2), FillTensor("filter", "repeat", grown_axis=0)]
    assert apply_edits(net, edits)[0].filter.tolist() == [[2], [2], [2], [2]]
    net.register_buffer("filter", torch.tensor([[2.0], [3.0]]))
    with pytest.raises(PlanError, match="how its values follow"):
        apply_edits(net, edits)


def test_rows_and_columns_are_multiplied() -> None:
    rows, _ = apply_edits(linear(), [FillTensor("weight", "scale", 0.5, start=1, stop=3)])
    assert rows.weight.tolist() == [[1, 2], [1.5, 2], [2.5, 3], [7, 8]]
    columns, _ = apply_edits(linear(), [FillTensor("weight", "scale", 3.0, start=1, stop=2, axis=1)])
    assert columns.weight.tolist() == [[1, 6], [3, 12], [5, 18], [7, 24]]
    # One rounding, of the product, and not another one of the factor before it.
    factor = 2**0.5
    scaled, _ = apply_edits(linear(), [FillTensor("bias", "scale", factor)])
    assert scaled.bias.tolist() == [float(torch.tensor(v * factor, dtype=torch.float32)) for v in (1.0, 2.0, 3.0, 4.0)]


def test_the_mean_of_the_old_values_is_taken_out() -> None:
    grown, _ = apply_edits(linear(), [ROWS, COLUMNS, FillTensor("weight", "center", axis=0)])
    assert grown.weight.tolist() == [[-3, -3, 0], [-1, -1, 0], [0, 0, 0], [1, 1, 0], [3, 3, 0], [0, 0, 0]]


def test_an_axis_that_is_not_there_is_refused() -> None:
    with pytest.raises(PlanError, match="fills axis 2 of 'weight'"):
        apply_edits(linear(), [FillTensor("weight", "scale", 2.0, axis=2)])
    with pytest.raises(PlanError, match="rows up to 5"):
        apply_edits(linear(), [FillTensor("weight", "scale", 2.0, start=1, stop=5)])
