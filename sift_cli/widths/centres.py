"""Parameters whose mean over channels no one sees.

LayerNorm subtracts the mean of its input. What is added up to that input and read by nothing else (the embeddings and
the last layers of each block, in a transformer that norms first) may lose its own mean, then, and the function stays.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sift_cli.widths.graph import Axis
from sift_cli.widths.trace import _fake_like, _run, replaced, slots

aten = torch.ops.aten


def centrable(module: nn.Module, inputs: Any) -> list[Axis]:
    """Parameters of ``module``, with the axis of their channels, from which the mean over it may be taken.

    Args:
        module: The model, on any device.
        inputs: Its example inputs.

    Raises:
        UnsupportedOp: It does not run.
    """
    found = list(slots(module))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    stand_in = {id(slot.tensor): _fake_like(fake, slot.tensor, slot.tensor.shape) for slot in found}
    names = {id(stand_in[id(slot.tensor)]): slot.name for slot in reversed(found) if slot.kind == "parameter"}
    fake_inputs = tree_map_only(Tensor, lambda t: _fake_like(fake, t, t.shape), inputs)
    sums = _Sums(names)
    with replaced(module, found, stand_in), torch.no_grad(), fake, sums:
        sums.seen(_run(module, fake_inputs))
    return [axis for axis in sums.normed if axis not in sums.otherwise]


_SUMS = {aten.add.Tensor, aten.add_.Tensor, aten.cat.default}
_SAME = {aten._to_copy.default, aten.clone.default, aten._unsafe_view.default}
_CONTRACTIONS = {aten.addmm.default: (2, 0), aten.mm.default: (1, None), aten.convolution.default: (1, 2)}


class _Sums(TorchDispatchMode):
    """Follows what is added up.

    Attributes:
        normed: Parameters that are a part of what a LayerNorm reads, in order.
        otherwise: Parameters that something else reads, too.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self._names = dict(names)  # of parameters and views of them
        self._parts: dict[int, frozenset[Axis]] = {}
        self._alive: list[Tensor] = []  # ids are compared, so nothing may be freed and its id reused
        self.normed: dict[Axis, None] = {}
        self.otherwise: set[Axis] = set()

    def seen(self, tensors: Any) -> None:
        """Note that something reads ``tensors`` as they are."""
        for tensor in tree_leaves(tensors):
            self.otherwise |= self._parts.get(id(tensor), frozenset())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operands = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        results = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        self._alive += [*operands, *results]
        parts: frozenset[Axis] = frozenset()
        if (func.is_view or func in _SAME) and id(operands[0]) in self._names:
            self._names |= {id(t): self._names[id(operands[0])] for t in results}
            return result
        if func.is_view or func in _SAME:
            parts = self._parts.get(id(operands[0]), parts)
        elif func in _SUMS:
            parts = parts.union(*(self._of(tensor) for tensor in operands))
        elif func is aten.native_layer_norm.default and len(args[1]) == 1:
            self.normed |= dict.fromkeys(sorted(self._parts.get(id(args[0]), ()), key=str))
        elif func is aten.embedding.default:
            parts = self._of(args[0])
        elif func in _CONTRACTIONS and id(args[_CONTRACTIONS[func][0]]) in self._names:
            weight, bias = _CONTRACTIONS[func]
            tensor = args[weight]
            convolves = func is aten.convolution.default
            # The weight of a linear layer arrives as (inputs, outputs), a view of one that is the other way around.
            outputs = 0 if convolves or not tensor.is_contiguous() else tensor.dim() - 1
            parts = frozenset({Axis(self._names[id(tensor)], outputs)})
            self.otherwise.add(Axis(self._names[id(tensor)], 1 - outputs))  # a table that is tied to a head
            if bias is not None and args[bias] is not None:
                parts |= self._of(args[bias])
            self.seen([t for t in operands if t is not tensor])
        elif results:  # others ask for no values, as for a device
            self.seen(operands)
        self._parts |= {id(tensor): parts for tensor in results}
        return result

    def _of(self, tensor: Tensor) -> frozenset[Axis]:
        """What ``tensor`` is the sum of; a parameter is itself."""
        if id(tensor) in self._names:
            return frozenset({Axis(self._names[id(tensor)], tensor.dim() - 1)})
        return self._parts.get(id(tensor), frozenset())
