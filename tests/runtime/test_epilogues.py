"""The operators with a residual and an activation in the native library, against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from epilogues import ACTIVATIONS, NAMES, Layer

from sift_cli import runtime
from sift_cli.core.operators import OPERATORS

pytestmark = pytest.mark.usefixtures("library")


def run(layer: Layer, *, bias: bool = True) -> np.ndarray:
    opened = runtime.session(layer.model(bias=bias), threads=2)
    (y,) = opened.run(None, layer.inputs)
    assert [(kernel.op, kernel.runs) for kernel in runtime.kernels(opened)] == [(layer.name, 1)]
    return y


def test_the_names() -> None:
    assert sorted(OPERATORS) == sorted(NAMES)


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", NAMES)
def test_an_operator_is_its_definition(name: str, biased: bool) -> None:
    layer = Layer(name)
    layer.check(run(layer, bias=biased), bias=biased)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_right_in_its_last_digits(activation: str) -> None:
    layer = Layer.of_nothing(activation, np.linspace(-9, 9, 6000, dtype=np.float32).reshape(1000, 6))
    layer.check(run(layer))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_special_values(name: str, value: float) -> None:
    """In an input, where they reach what a kept weight connects; in a residual; and against each other."""
    layer = Layer(name)
    x = layer.inputs["X"]
    x[(0, 2, 2, 3) if layer.is_conv else (0, 1, 4)] = value
    if layer.adds:
        residual = layer.inputs["residual"]
        residual[1, 1] = value
        residual[0] = -value
    y = run(layer)
    layer.check(y)
    assert np.isfinite(y).any()


def test_a_residual_of_another_shape_is_refused() -> None:
    layer = Layer("SparseLinearAddRelu")
    opened = runtime.session(layer.model())
    with pytest.raises(Exception, match=r"residual has shape \[1, 3, 6\] where the output has \[2, 3, 6\]"):
        opened.run(None, layer.inputs | {"residual": layer.inputs["residual"][:1]})
