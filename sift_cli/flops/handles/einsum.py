"""Einsum in general: fvcore asks numpy for a path, in floating point; torch contracts along its own."""

from __future__ import annotations

from sift_cli.flops.contraction import einsum_products
from sift_cli.flops.handles._values import LISTED, Handle, Product, Values, items, shape


def _einsum(inputs: Values, outputs: Values) -> list[Product] | None:
    operands = items(inputs[1])
    path = [step.toIValue() for step in items(inputs[2])] if len(inputs) > 2 else None
    products = einsum_products(inputs[0].toIValue(), [shape(operand) for operand in operands], path)
    return [Product("matmul", macs, tuple(operands[at] for at in whole)) for macs, whole in products] or LISTED


HANDLES: dict[str, Handle] = {"aten::einsum": _einsum}
