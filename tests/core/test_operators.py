"""The names of sift's operators, and what the activations in them mean, against torch in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sift_cli.core.operators import ACTIVATIONS, OPERATORS, Operator, operator_of

TORCH = {
    "": lambda x: x,
    "Relu": torch.relu,
    "Clip": lambda x: torch.clamp(x, -0.75, 6.0),
    "LeakyRelu": lambda x: F.leaky_relu(x, 0.1),
    "Silu": F.silu,
    "Gelu": F.gelu,
    "GeluTanh": lambda x: F.gelu(x, approximate="tanh"),
}
GIVEN = {"Clip": {"min": -0.75, "max": 6.0}, "LeakyRelu": {"alpha": 0.1}}
#: At −∞ and ∞.
LIMITS = {"Clip": (-0.75, 6.0), "": (-np.inf, np.inf), "LeakyRelu": (-np.inf, np.inf)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_torchs(name: str) -> None:
    x = np.concatenate([np.linspace(-40, 40, 801), [-1e30, -1000.0, 0.0, 1000.0, 1e30]])
    y = ACTIVATIONS[name].meaning(x, **GIVEN.get(name, {}))
    np.testing.assert_allclose(y, TORCH[name](torch.from_numpy(x)).numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_beyond_numbers(name: str) -> None:
    """A NaN stays one. At −∞ torch multiplies by 0; the definition is the limit."""
    y = ACTIVATIONS[name].meaning(np.array([-np.inf, np.inf, np.nan]), **GIVEN.get(name, {}))
    np.testing.assert_array_equal(y, [*LIMITS.get(name, (0.0, np.inf)), np.nan])


def test_a_name_is_its_parts() -> None:
    assert len(OPERATORS) == 28
    assert all(name == operator.name for name, operator in OPERATORS.items())
    assert operator_of("sift", "SparseConvAddLeakyRelu") == Operator("Conv", True, "LeakyRelu")
    assert operator_of("sift", "SparseLinearGeluTanh") == Operator("Linear", False, "GeluTanh")
    assert operator_of("sift", "SparseConv") == Operator("Conv")
    assert operator_of("", "SparseConv") is operator_of("sift", "SparseConvTranspose") is None
