"""sift's operators in ONNX graphs: what is in which, by name, and what each activation means."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

DOMAIN = "sift"
#: The function that makes the dense weight of a layer that stays dense: it has no kernel.
DENSE_WEIGHT = "DenseWeight"
#: A MaxPool without padding between sparse convolutions, which takes and gives arranged images.
MAX_POOL = "ArrangedMaxPool"


@dataclass(frozen=True)
class Activation:
    """What is done to each sum before it is stored.

    Attributes:
        meaning: From a float64 array, and ``attributes`` by name, to a float64 array. NaN stays NaN, and ±∞ becomes
            the limit.
        attributes: Names of the float attributes that an operator with it has.
        standard: ONNX operators that do the same.
    """

    meaning: Callable[..., np.ndarray]
    attributes: tuple[str, ...] = ()
    standard: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operator:
    """activation(layer + bias + residual), where ``activation`` is a key of :data:`ACTIVATIONS` and the residual is
    there where the operator ``adds``."""

    layer: Literal["Conv", "Linear"]
    adds: bool = False
    activation: str = ""

    @property
    def name(self) -> str:
        return f"Sparse{self.layer}{'Add' * self.adds}{self.activation}"

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of all its attributes."""
        window = ("strides", "pads", "dilations", "group") if self.layer == "Conv" else ()
        return ("weight_shape", *window, *ACTIVATIONS[self.activation].attributes)

    @property
    def epilogue(self) -> tuple[str, ...]:
        """The ONNX operators that were behind the layer before it took them in."""
        return ("Add",) * self.adds + ACTIVATIONS[self.activation].standard


#: e^x may be ∞ on the way to a limit.
_to_the_limits = np.errstate(over="ignore", invalid="ignore")


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def _clip(x: np.ndarray, min: float, max: float) -> np.ndarray:
    return np.minimum(np.maximum(x, min), max)


def _leaky_relu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x < 0, alpha * x, x)


@_to_the_limits
def _silu(x: np.ndarray) -> np.ndarray:
    return _times(x, 1 / (1 + np.exp(-x)))


@_to_the_limits
def _gelu(x: np.ndarray) -> np.ndarray:
    return _times(x, _erfc(-x / math.sqrt(2)) / 2)


@_to_the_limits
def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return _times(x, 1 / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _times(x: np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.where(x == -np.inf, 0.0, x * share)  # its limit, and not ∞ · 0


_erfc = np.vectorize(math.erfc, otypes=[np.float64])

ACTIVATIONS: dict[str, Activation] = {
    "": Activation(lambda x: x),
    "Relu": Activation(_relu, (), ("Relu",)),
    "Clip": Activation(_clip, ("min", "max"), ("Clip",)),
    "LeakyRelu": Activation(_leaky_relu, ("alpha",), ("LeakyRelu",)),
    "Silu": Activation(_silu, (), ("Sigmoid", "Mul")),
    "Gelu": Activation(_gelu, (), ("Gelu",)),
    "GeluTanh": Activation(_gelu_tanh, (), ("Gelu",)),
}

_LAYERS: tuple[Literal["Conv", "Linear"], ...] = ("Conv", "Linear")
OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in itertools.starmap(Operator, itertools.product(_LAYERS, (False, True), ACTIVATIONS))
}


def operator_of(domain: str, op_type: str) -> Operator | None:
    """The operator that a node of this domain and type is, or None where it is not one of sift's."""
    return OPERATORS.get(op_type) if domain == DOMAIN else None
