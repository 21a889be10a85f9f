"""Numbers that follow from the shape of a weight, recognised by their value.

Where a constructor computes 1/√fan itself and hands over the number, nothing but the number can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sift_cli.models.initialisation.draw import CUT, Draw

#: Standard deviation of a standard normal distribution that is cut off at ±2: what JAX's initialisers divide by.
_CUT_STD = math.sqrt(1 - 2 * CUT * math.exp(-(CUT**2) / 2) / math.sqrt(2 * math.pi) / math.erf(CUT / math.sqrt(2)))
#: c in σ = c/√fan: linear, ReLU, leaky ReLU of slope √5 (PyTorch's linear layers), tanh, SELU, and JAX's two.
GAINS = (1.0, math.sqrt(2), math.sqrt(1 / 3), 5 / 3, 3 / 4, 1 / _CUT_STD, math.sqrt(2) / _CUT_STD)
TOLERANCE = 1e-6

Shape = Sequence[int]


def rescaled(draw: Draw, shapes: Sequence[tuple[Shape, Shape]]) -> Draw:
    """``draw`` for the new shapes, if its width is a gain over the root of a fan of the old ones; else as it is.

    Args:
        draw: As the model draws at its own shapes.
        shapes: Old and new shape of the tensor, and of the weight beside it if it is a bias.
    """
    std = {"normal": draw.b, "uniform": (draw.b - draw.a) / math.sqrt(12), "constant": 0.0}[draw.distribution]
    centred = draw.a == 0 if draw.distribution == "normal" else draw.a == -draw.b
    if not std or not centred:
        return draw
    for old, new in ((o, n) for shape in shapes for o, n in zip(_fans(shape[0]), _fans(shape[1]), strict=True)):
        if any(abs(std * math.sqrt(old) / gain - 1) < TOLERANCE for gain in GAINS):
            return replace(draw.affine(math.sqrt(old / new)), distribution=draw.distribution) if old != new else draw
    return draw


def _fans(shape: Shape) -> Iterator[float]:
    """Inputs, outputs and their mean, as ``torch.nn.init`` counts them; then every axis by itself."""
    if len(shape) > 1:
        inside = math.prod(shape[2:])
        yield shape[1] * inside
        yield shape[0] * inside
        yield (shape[0] + shape[1]) * inside / 2
    yield from shape
