"""Scaled dot-product attention, which fvcore does not know."""

from __future__ import annotations

from sift_cli.flops.contraction import attention_macs
from sift_cli.flops.handles._values import Handle, Product, Values, shape


def _attention(inputs: Values, outputs: Values) -> list[Product]:
    query, key, value = map(shape, inputs[:3])
    return [Product("attention", attention_macs(query, key, value))]


HANDLES: dict[str, Handle] = {"aten::scaled_dot_product_attention": _attention}
