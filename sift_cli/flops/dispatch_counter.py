"""Counting by torch's own ``FlopCounterMode``: it prices what reaches the dispatcher, here on fake tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from sift_cli.errors import UnsupportedOp
from sift_cli.flops.free import FREE
from sift_cli.flops.shadow import first_line, inference, shadow, shadow_inputs
from sift_cli.flops.uses import Use, first_names, named_tensors
from sift_cli.models.calling import Inputs, call

_aten = torch.ops.aten
_CONVOLUTIONS = frozenset({"convolution", "_convolution", "cudnn_convolution", "_slow_conv2d_forward"})
# What a forward pass raises that does not run on meta tensors, or not on these inputs.
_REFUSALS = (RuntimeError, TypeError, AssertionError, ValueError, IndexError)
_COPIES = frozenset({_aten.clone, _aten._to_copy})


def count(module: nn.Module, inputs: Inputs) -> tuple[list[Use], Counter[str]]:
    """The uses of one forward pass, in order, and what was not counted.

    It is run on fake tensors. A module that reads values, or has an operator without a shape kernel, is run on zeros
    instead.

    Raises:
        UnsupportedOp: The module does not run on ``inputs``.
    """
    try:
        # Fake tensors claim to be on the CPU and to be traced: code that asks for either (transformers, before it reads
        # a value of a mask) goes a way that works. On meta it fails.
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _run(module, inputs, "fake")
    except _REFUSALS:
        pass
    try:
        return _run(module, inputs, "cpu")
    except _REFUSALS as error:
        why = f"it does not run on these inputs ({first_line(error)})"
        raise UnsupportedOp("forward", type(module).__name__, why) from error


def _run(module: nn.Module, inputs: Inputs, device: Any) -> tuple[list[Use], Counter[str]]:
    copy = shadow(module, device)
    counter = _Counter(copy)
    with inference(onednn=False), _AttentionNames(counter), counter:
        call(copy, shadow_inputs(inputs, device))
    if counter.get_total_flops() != 2 * sum(use.macs for use in counter.uses):
        raise UnsupportedOp("forward", type(module).__name__, "torch's FLOPs are not the sum over its operators")
    return counter.uses, counter.listed


class _Counter(FlopCounterMode):
    """Torch's counter with the formulas that it lacks; it notes where each product happened and on which weight."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(display=False, custom_mapping=_FORMULAS)
        self.uses: list[Use] = []
        self.listed: Counter[str] = Counter()
        self.attention_depth = 0
        self._running: list[str] = []
        for name, child in module.named_modules():
            child.register_forward_pre_hook(lambda *_, name=name: self._running.append(name))
            child.register_forward_hook(lambda *_: self._drop(), always_call=True)
        tensors = named_tensors(module)
        names = first_names(tensors)
        # Storage → name of the weight in it, and how often each of its elements is repeated there.
        self._weights = {_storage(t): (names[id(t)], 1) for t in tensors.values()}
        self._kept_alive = list(tensors.values())

    def _drop(self) -> None:
        # A hook that returns something replaces the module's output.
        self._running.pop()

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        before = self.get_total_flops()
        out = super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]
        name = str(func_packet).replace(".", "::", 1)
        if func_packet in self.flop_registry:
            flops = self.get_total_flops() - before
            self.uses.append(self._use(func_packet, flops // 2, args))
        elif func_packet in _COPIES:
            self._follow(args[0], out)
        elif name not in FREE and not name.startswith("prim::"):
            self.listed[name] += 1
        return out

    def _use(self, packet: Any, macs: int, args: Any) -> Use:
        module = self._running[-1] if self._running else ""
        if self.attention_depth:
            return Use(module, "attention", macs)
        if packet.__name__ in _CONVOLUTIONS:
            return Use(module, "conv", macs, *self._origin(args[1:2]))
        if "attention" in packet.__name__:
            return Use(module, "attention", macs)
        operands = [a for a in args if isinstance(a, Tensor)][-2:]
        return Use(module, "matmul", macs, *self._origin(operands))

    def _origin(self, operands: Any) -> tuple[str | None, int]:
        """The first operand that is (part of) a weight: its name and how many of its elements take part."""
        for operand in operands:
            known = self._weights.get(_storage(operand))
            if known is not None:
                name, repeats = known
                return name, _distinct(operand) // repeats
        return None, 0

    def _follow(self, source: Tensor, copy: Tensor) -> None:
        """A copy of a weight is still that weight."""
        known = self._weights.get(_storage(source))
        if known is not None and copy.numel():
            name, repeats = known
            self._weights[_storage(copy)] = (name, repeats * (copy.numel() // _distinct(source)))
            self._kept_alive.append(copy)


class _AttentionNames(TorchFunctionMode):
    """Tells the counter when it is inside dot-product attention, which the dispatcher may see as two products."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = func is functional.scaled_dot_product_attention
        self._counter.attention_depth += inside
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._counter.attention_depth -= inside


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _distinct(tensor: Tensor) -> int:
    """Elements of a view that are different elements of its storage."""
    return math.prod(n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or n == 0)


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    # torch 2.13 prices the kernels of GPUs only; on a CPU attention would count nothing.
    *batch, rows, width = query
    return int(2 * math.prod(batch) * rows * key[-2] * (width + value[-1]))


def _matrix_vector(a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(2 * math.prod(a))


def _added_matrix_vector(added: Any, a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(2 * math.prod(a))


def _added_batch(added: Any, a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(2 * math.prod(a) * b[-1])


_FORMULAS: dict[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten.mv: _matrix_vector,
    _aten.dot: _matrix_vector,
    _aten.vdot: _matrix_vector,
    _aten.addmv: _added_matrix_vector,
    _aten.addbmm: _added_batch,
    _aten._addmm_activation: _added_batch,
}
