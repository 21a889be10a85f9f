"""Width rules: the few functions whose own shape kernels round or fix a size, said again in terms that keep it.

Each rule stands in for one function of PyTorch while a model runs on symbolic sizes. Its result has the right shape
and no meaningful values, which is all that such a run needs. Every other function needs no rule: its shape kernel
compares sizes, and that is what couples them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Rule = Callable[..., Any]


class WidthRules(TorchFunctionMode):
    """Puts the rules in place of their functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func)
        if rule is not None:
            result = rule(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return func(*args, **(kwargs or {}))


def _hint(size: int | torch.SymInt) -> int:
    return size.node.hint if isinstance(size, torch.SymInt) else size


def _pad(x: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    # The kernels compare each padding with 0 and with the size.
    shape = list(x.shape)
    for index in range(len(pad) // 2):
        shape[-1 - index] = shape[-1 - index] + pad[2 * index] + pad[2 * index + 1]
    return x.new_empty(shape)


def _chunk(x: Tensor, chunks: int, dim: int = 0) -> Any:
    # ``chunk`` rounds up, so its sizes are no multiple of anything; where it comes out even, they are one size.
    if not isinstance(x.shape[dim], torch.SymInt) or _hint(x.shape[dim]) % chunks:
        return NotImplemented
    return x.split([x.shape[dim] // chunks] * chunks, dim)


def _split(x: Tensor, split_size: Any, dim: int = 0) -> Any:
    # With one size for all parts, the kernel loops over a number of parts that it makes a Python int of.
    size = x.shape[dim]
    if not isinstance(split_size, int | torch.SymInt) or not (
        isinstance(size, torch.SymInt) or isinstance(split_size, torch.SymInt)
    ):
        return NotImplemented
    parts, rest = divmod(_hint(size), _hint(split_size))
    if rest:  # the last part is what is left
        return x.split([*[split_size] * parts, size - split_size * parts], dim)
    torch._check(size == split_size * parts)
    return x.split([split_size] * parts, dim)


def _interpolate(x: Tensor, size: Any = None, *args: Any, **kwargs: Any) -> Tensor:
    # Channels pass through; their number is compared with constants on the way. Spatial sizes have to be numbers.
    wanted: Any = size if size is None or isinstance(size, int | torch.SymInt) else [_number(one) for one in size]
    one = F.interpolate(x.new_empty([1, 1, *(_number(side) for side in x.shape[2:])]), wanted, *args, **kwargs)
    return x.new_empty([*x.shape[:2], *one.shape[2:]])


def _number(size: int | torch.SymInt) -> int:
    torch._check(size == _hint(size))
    return _hint(size)


def _unfold(x: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    # The kernel makes numbers of all sizes.
    one = F.unfold(x.new_empty([1, 1, *x.shape[2:]]), kernel_size, dilation, padding, stride)
    return x.new_empty([x.shape[0], x.shape[1] * one.shape[1], one.shape[2]])


def _fold(x: Tensor, output_size: Any, kernel_size: Any, *args: Any, **kwargs: Any) -> Tensor:
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    channels = x.shape[1] // (rows * columns)
    torch._check(x.shape[1] == channels * rows * columns)
    return x.new_empty([x.shape[0], channels, height, width])


def _addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: Any = 1) -> Tensor:
    return x + a * b


def _baddbmm(x: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1, **_: Any) -> Tensor:
    return x + torch.bmm(batch1, batch2)


def _recurrent(gates: int) -> Rule:
    """A recurrent layer as one unrolled step: its weights contract the input and the hidden state.

    The gates of a cell are equal slices of one weight (4 in an LSTM, 3 in a GRU, 1 in a plain RNN).
    """

    def rule(
        x: Tensor, hidden: Any, weights: Any, bias: bool, layers: int, dropout: float, train: bool, both: bool,
        batch_first: bool | None = None,
    ) -> Any:  # fmt: skip
        if batch_first is None:  # the call for packed sequences has other arguments
            return NotImplemented
        states = tuple(hidden) if isinstance(hidden, tuple | list) else (hidden,)
        directions = 2 if both else 1
        each = len(weights) // (layers * directions)
        step = x.select(1 if batch_first else 0, 0)
        length = x.shape[1 if batch_first else 0]
        for layer in range(layers):
            outputs = []
            for direction in range(directions):
                index = layer * directions + direction
                own = weights[index * each : (index + 1) * each]
                from_input, from_hidden, *rest = own
                projection = rest.pop() if len(rest) in (1, 3) else None  # proj_size
                width = from_hidden.shape[0] // gates
                torch._check(from_hidden.shape[0] == gates * width)
                state = states[0][index]
                both_sides = F.linear(step, from_input) + F.linear(state, from_hidden)
                for one in rest:
                    both_sides = both_sides + one
                part = both_sides.split([width] * gates, -1)[0]
                if len(states) == 2:
                    part = part * states[1][index]  # the cell state, which a projection does not touch
                outputs.append(part if projection is None else F.linear(part, projection))
                torch._check(outputs[-1].shape[-1] == state.shape[-1])
            step = torch.cat(outputs, -1) if both else outputs[0]
        dim = 1 if batch_first else 0
        sizes = [-1] * x.dim()
        sizes[dim] = length
        return (step.unsqueeze(dim).expand(sizes), *states)

    return rule


_RULES: dict[Any, Rule] = {
    F.pad: _pad,
    torch.chunk: _chunk,
    Tensor.chunk: _chunk,
    torch.split: _split,
    Tensor.split: _split,
    F.interpolate: _interpolate,
    F.unfold: _unfold,
    F.fold: _fold,
    torch.addcmul: _addcmul,
    Tensor.addcmul: _addcmul,
    torch.baddbmm: _baddbmm,
    Tensor.baddbmm: _baddbmm,
    torch._VF.lstm: _recurrent(4),  # type: ignore[attr-defined]
    torch._VF.gru: _recurrent(3),  # type: ignore[attr-defined]
    torch._VF.rnn_tanh: _recurrent(1),  # type: ignore[attr-defined]
    torch._VF.rnn_relu: _recurrent(1),  # type: ignore[attr-defined]
}
