"""Counting by fvcore: the module is traced by ``torch.jit`` and each node of the graph is priced by a handle."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import addmm_flop_jit, bmm_flop_jit, conv_flop_jit, linear_flop_jit, matmul_flop_jit
from torch import nn

from sift_cli.errors import UnsupportedOp
from sift_cli.flops.free import FREE
from sift_cli.flops.handles._values import LISTED, Handle, Product, Values, rank_and_sizes
from sift_cli.flops.shadow import first_line, inference, keep_all_results, shadow, shadow_inputs
from sift_cli.flops.uses import Use, first_names, named_tensors
from sift_cli.models.calling import Inputs, names_of, tensors_of
from sift_cli.registry import discover

# What fvcore prices itself, the kind of product, and which inputs may be a weight.
_FVCORE: dict[str, tuple[str, Callable[..., Any], tuple[int, ...]]] = {
    "aten::_convolution": ("conv", conv_flop_jit, (1,)),
    "aten::linear": ("matmul", linear_flop_jit, (1,)),
    "aten::addmm": ("matmul", addmm_flop_jit, (1, 2)),
    "aten::mm": ("matmul", matmul_flop_jit, (0, 1)),
    "aten::bmm": ("matmul", bmm_flop_jit, (0, 1)),
}
# What fvcore would add to the MACs and the convention does not.
_LISTED = """
    adaptive_avg_pool2d batch_norm grid_sampler group_norm instance_norm layer_norm upsample_bilinear2d
    upsample_nearest2d
"""

# Nodes through which a weight stays the same weight, or a part of it.
_SAME_WEIGHT = """
    alias chunk clone contiguous detach expand expand_as flatten movedim narrow permute reshape select slice split
    split_with_sizes squeeze swapaxes t to transpose type_as unbind unflatten unsqueeze view
"""


def count(module: nn.Module, inputs: Inputs) -> tuple[list[Use], Counter[str]]:
    """The uses of one forward pass, in order, and what was not counted.

    Raises:
        UnsupportedOp: ``torch.jit.trace`` cannot follow the module, or a node has no shapes.
    """
    copy = shadow(module, "cpu")
    keep_all_results(copy, names_of(inputs))
    recorder = _Recorder(copy)
    analysis = FlopCountAnalysis(copy, tensors_of(shadow_inputs(inputs, "cpu")))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle(**recorder.handles())
    try:
        with inference():
            total = int(analysis.total())
    except Exception as error:
        # Whatever a foreign forward pass raises under the tracer ends up here.
        why = f"torch.jit.trace cannot follow it ({first_line(error)})"
        hint = "the dispatch counter does not trace; ask for that one"
        raise UnsupportedOp("forward", type(module).__name__, why, hint=hint) from error
    if total != sum(use.macs for use in recorder.uses):
        raise UnsupportedOp("forward", type(module).__name__, "fvcore's total is not the sum over its operators")
    met = analysis.unsupported_ops() + recorder.listed
    return recorder.uses, Counter({op: times for op, times in met.items() if op not in FREE})


class _Recorder:
    """Wraps handles for fvcore, and remembers where each product happened and on which weight."""

    def __init__(self, module: nn.Module) -> None:
        names = first_names(named_tensors(module))
        # The trace passes each distinct tensor of the state_dict once, in its order, after the inputs.
        self._names = list(names.values())
        self._same_weight = _aten(_SAME_WEIGHT)
        self.uses: list[Use] = []
        self.listed: Counter[str] = Counter()

    def handles(self) -> dict[str, Callable[[Values, Values], Counter[str]]]:
        table: dict[str, Handle] = {kind: _from_fvcore(*row) for kind, row in _FVCORE.items()}
        for family in discover("sift_cli.flops.handles").values():
            table.update(family.HANDLES)
        table.update(dict.fromkeys(_aten(_LISTED), lambda inputs, outputs: LISTED))
        return {kind: self._recorded(kind, handle) for kind, handle in table.items()}

    def _recorded(self, kind: str, handle: Handle) -> Callable[[Values, Values], Counter[str]]:
        def priced(inputs: Values, outputs: Values) -> Counter[str]:
            products = handle(inputs, outputs)
            if products is None:
                self.listed[kind] += 1
                return Counter()
            module = outputs[0].node().scopeName().rpartition("/")[2]
            for product in products:
                origins = filter(None, map(self._origin, product.operands))
                weight, covered = next(origins, (None, 0))
                self.uses.append(Use(module, product.op, product.macs, weight, covered))
            return sum((Counter({product.op: product.macs}) for product in products), Counter())

        return priced

    def _origin(self, value: Any) -> tuple[str, int] | None:
        """Name of the weight that ``value`` is (part of), and how many of its elements, or None."""
        covered = None
        while True:
            sizes = rank_and_sizes(value)
            if sizes is not None:
                numel = math.prod(sizes)
                covered = numel if covered is None else min(covered, numel)
            node = value.node()
            if node.kind() == "prim::Param":
                place = [v.debugName() for v in node.outputs()].index(value.debugName())
                place -= len(list(node.outputs())) - len(self._names)
                return (self._names[place], covered or 0) if place >= 0 else None
            if node.kind() == "prim::ListUnpack":
                node = node.inputsAt(0).node()
            if node.kind() not in self._same_weight:
                return None
            value = next(iter(node.inputs()))


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten::{name}" for name in names.split())


def _from_fvcore(op: str, price: Callable[..., Any], operands: tuple[int, ...]) -> Handle:
    def handle(inputs: Values, outputs: Values) -> list[Product]:
        macs = price(inputs, outputs)
        macs = sum(macs.values()) if isinstance(macs, Counter) else macs
        return [Product(op, int(macs), tuple(inputs[i] for i in operands))]

    return handle
