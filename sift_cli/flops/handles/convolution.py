"""Convolutions whose padding is a word ("same", "valid"), a separate operator that fvcore does not know."""

from __future__ import annotations

import math

from sift_cli.flops.handles._values import Handle, Product, Values, shape


def _padded_by_word(inputs: Values, outputs: Values) -> list[Product]:
    batch, _, *spatial = shape(outputs[0])
    return [Product("conv", batch * math.prod(spatial) * math.prod(shape(inputs[1])), (inputs[1],))]


HANDLES: dict[str, Handle] = {"aten::_convolution_mode": _padded_by_word}
