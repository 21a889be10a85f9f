from __future__ import annotations

import torch
from torch import Tensor, nn

from sift_cli.verify.onnx_export import BOUND, _rounding


class Shifted(nn.Module):
    """Loses all but 2^-10 of an output of some 4 to a sum with 2^13, whose unit in the last place that is."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 2.0**13) - 2.0**13


def test_what_float32_costs_is_measured_in_float64() -> None:
    x = (torch.zeros(1, 1000),)
    assert _rounding(nn.Identity(), x) == 0
    assert BOUND < _rounding(Shifted(), x) <= 2**-11 / 2.5
