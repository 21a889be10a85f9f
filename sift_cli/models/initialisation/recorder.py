"""Record how a model initialises itself.

While a model is constructed, :class:`Recorder` follows what every operator does to the distribution of the tensors it
writes, and notes which function calls that happened in. Run on fake tensors (shapes without values) this costs neither
memory nor draws. They are fake CPU tensors and not tensors on the meta device, because transformers and parts of torch
skip initialisation on meta.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode

from sift_cli.models.initialisation.arithmetic import OPERATORS, Operator
from sift_cli.models.initialisation.calls import Call, call_of
from sift_cli.models.initialisation.draw import Draw
from sift_cli.models.initialisation.segments import Change, Segments

_aten = torch.ops.aten
_COPIES = frozenset({_aten.clone, _aten._to_copy})
_ITEM = _aten._local_scalar_dense


@dataclass(frozen=True)
class Event:
    """One write into a tensor.

    Attributes:
        storage: What was written to, or became a copy of that later.
        origin: What was written to.
        calls: The calls it happened in that could be made again, the best first.
    """

    storage: int
    origin: int
    calls: tuple[Call, ...]


class Recorder(TorchDispatchMode):
    """Follows distributions through operators.

    Attributes:
        events: Writes, in order.
        written: Storages that were written to. A caller may clear it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.written: set[int] = set()
        self._known: dict[int, Segments] = {}
        self._calls: dict[FrameType, Call | None] = {}
        self._alive: list[Tensor] = []  # storages are told apart by address: none may be freed and its address reused
        self._root: FrameType | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the block."""
        self._root = sys._getframe(2)
        # torch draws a truncated normal by rejection, which looks at values.
        with mock.patch.object(torch.nn.init, "_no_grad_trunc_normal_", self._truncated_normal), self:
            yield

    def known(self, tensor: Tensor) -> Segments:
        """What the entries of the storage of ``tensor`` are drawn from."""
        return self._known.get(storage_of(tensor)) or Segments(_size(tensor))

    def forget(self, storage: int) -> None:
        """Take nothing in ``storage`` for known."""
        self._known.pop(storage, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            result = func(*args, **kwargs)
        except DataDependentOutputException:
            if func.overloadpacket is not _ITEM:
                raise
            # A value that a fake tensor has not, most often a drop rate of a linspace. Zero will do; where it is a size
            # it will not, and the model comes out with other shapes than it has, which the caller looks at.
            return False if args[0].dtype == torch.bool else 0.0 if args[0].is_floating_point() else 0
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
        named = {a.name: a.default_value for a in func._schema.arguments} | named | kwargs
        operator = OPERATORS.get(func.overloadpacket.__name__.removesuffix("_"))
        written = [named[a.name] for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
        operands = {storage_of(value) for value in named.values() if isinstance(value, Tensor)}
        if written:
            for target in written:
                if isinstance(target, Tensor):
                    self._write(target, self._change(operator, named))
        elif isinstance(result, Tensor) and storage_of(result) not in operands:
            self._create(result, func.overloadpacket in _COPIES, operator, named)
        return result

    def _write(self, tensor: Tensor, change: Change) -> None:
        storage, run = storage_of(tensor), _run(tensor)
        self._alive.append(tensor)
        known = self._known.setdefault(storage, Segments(_size(tensor)))
        if run is None:
            known.change(0, known.size, lambda _: None)
        else:
            known.change(*run, change)
        self.written.add(storage)
        self.events.append(Event(storage, storage, self._stack()))

    def _create(self, result: Tensor, copied: bool, operator: Operator | None, named: dict[str, Any]) -> None:
        self._alive.append(result)
        source, storage = named.get("self"), storage_of(result)
        constant = getattr(result, "constant", None)
        if isinstance(source, Tensor) and _run(source) == (0, _size(result)) and source.stride() == result.stride():
            known = self.known(source).copy()
        else:
            known = Segments(_size(result), self._draw(source) if isinstance(source, Tensor) else None)
        if copied and isinstance(source, Tensor):
            origin = storage_of(source)
            self.events += [replace(event, storage=storage) for event in self.events if event.storage == origin]
        elif constant is not None and constant.numel() and bool((constant == constant.view(-1)[0]).all()):
            known = Segments(known.size, Draw("constant", float(constant.view(-1)[0])))
        else:
            known.change(0, known.size, self._change(operator, named))
        self._known[storage] = known

    def _change(self, operator: Operator | None, named: dict[str, Any]) -> Change:
        if operator is None:
            return lambda _: None
        given = {
            name: self._draw(value) if isinstance(value, Tensor) and name != "self" else value
            for name, value in named.items()
        }
        return lambda draw: operator(draw, given)

    def _draw(self, tensor: Tensor) -> Draw | None:
        """The one distribution that all entries of ``tensor``, which may be a view, are drawn from."""
        start, stop = _run(tensor) or (0, _size(tensor))
        found = {draw for begin, end, draw in self.known(tensor) if begin < stop and start < end}
        return found.pop() if len(found) == 1 else None

    def _truncated_normal(
        self, tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Any = None
    ) -> Tensor:
        self._write(tensor, lambda _: Draw("normal", mean, std, a, b))
        return tensor

    def _stack(self) -> tuple[Call, ...]:
        found = []
        frame = sys._getframe(2)
        while frame is not None and frame is not self._root:
            if frame not in self._calls:
                self._calls[frame] = call_of(frame)
            call = self._calls[frame]
            if call is not None:
                found.append(call)
            frame = frame.f_back  # type: ignore[assignment]
        return tuple(sorted(reversed(found), key=lambda call: call.rank))


def storage_of(tensor: Tensor) -> int:
    """What identifies the memory of ``tensor``, shared by its views."""
    return int(tensor.untyped_storage()._cdata)


def _size(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _run(tensor: Tensor) -> tuple[int, int] | None:
    """Which entries of its storage ``tensor`` is, if it is all of them from one to another, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return None
        expected *= size
    start = int(tensor.storage_offset())
    return start, start + tensor.numel()
