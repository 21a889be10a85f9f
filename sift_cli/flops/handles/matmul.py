"""Matrix products: fvcore lacks the fused and the vector forms, and its ``matmul`` does not broadcast."""

from __future__ import annotations

from sift_cli.flops.contraction import matmul_macs
from sift_cli.flops.handles._values import Handle, Product, Values, shape


def _product(first: int) -> Handle:
    """A handle for operands at ``first`` and ``first + 1``."""

    def handle(inputs: Values, outputs: Values) -> list[Product]:
        a, b = inputs[first : first + 2]
        return [Product("matmul", matmul_macs(shape(a), shape(b)), (a, b))]

    return handle


HANDLES: dict[str, Handle] = {
    **dict.fromkeys(("aten::matmul", "aten::mv", "aten::dot", "aten::vdot"), _product(0)),
    **dict.fromkeys(("aten::baddbmm", "aten::baddbmm_", "aten::addbmm", "aten::addmv"), _product(1)),
}
