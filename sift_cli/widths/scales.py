"""Numbers that activations are multiplied with on their way, where those follow a width: attention's 1/√(size of a
head), a head's 1/√width.

Two runs on fake tensors, of the model and of the widened one, say how each activation was multiplied since it left the
parameter that last scaled it, when it enters a weight or a softmax. Where the two differ, that parameter can make up
for it. Nothing is taken from names: a model that does not scale its attention (T5) shows no difference.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sift_cli.widths.graph import Axis
from sift_cli.widths.trace import _fake_like, _run, replaced, slots

aten = torch.ops.aten


@dataclass(frozen=True)
class Rescaled:
    """Rows of a parameter that have to be multiplied.

    Attributes:
        tensor: Its name.
        axis: Which axis counts rows.
        start, stop: The rows, of the widened parameter.
        factor: What by.
    """

    tensor: str
    axis: int
    start: int
    stop: int
    factor: float


@dataclass(frozen=True)
class Scaling:
    """What two runs said.

    Attributes:
        rescaled: What has to be multiplied.
        attended: Axes of parameters whose features are multiplied with each other in attention.
    """

    rescaled: tuple[Rescaled, ...]
    attended: frozenset[Axis]


class Unscalable(Exception):
    """A number that follows a width, where no parameter of its own can make up for it."""


@dataclass(frozen=True)
class _Source:
    """A parameter that scales an activation: its feature j is row ``offset + j``."""

    name: str
    axis: int
    offset: int


@dataclass(frozen=True)
class _Flow:
    """An activation on its way.

    Attributes:
        factor: The numbers it was multiplied with since its sources, multiplied.
        sources: Parameters that scale it.
        index: For each element the feature of its source, on the CPU; None where that is not known.
        product: The two activations that it is the product of.
    """

    factor: float = 1.0
    sources: tuple[_Source, ...] = ()
    index: Tensor | None = None
    product: tuple[_Flow, _Flow] | None = None


@dataclass(frozen=True)
class _Use:
    """An activation that enters a weight or a softmax."""

    where: str
    factor: float
    flows: tuple[_Flow, ...]


def rescaled(module: nn.Module, wide: nn.Module, inputs: Any) -> Scaling:
    """What has to be multiplied in ``wide`` so that its activations are scaled as those of ``module``.

    Args:
        module, wide: A model and the same one with larger widths, on any device.
        inputs: Example inputs of both.

    Raises:
        Unscalable: No parameter can make up for a number that changed.
        UnsupportedOp: One of them does not run.
    """
    before, after = _uses(module, inputs), _uses(wide, inputs)
    if [use.where for use in before] != [use.where for use in after]:
        raise Unscalable("the widened model computes in another order")
    rows: dict[Rescaled, None] = {}
    attended: set[Axis] = set()
    for old, new in zip(before, after, strict=True):
        if len(new.flows) == 2:
            attended |= {Axis(source.name, source.axis) for flow in new.flows for source in flow.sources}
        factor = old.factor / new.factor
        if math.isclose(factor, 1, rel_tol=1e-9):
            continue
        flow = next((flow for flow in new.flows if flow.sources and flow.index is not None), None)
        if flow is None or flow.index is None:
            raise Unscalable(f"what enters {new.where} is multiplied with a number that follows a width")
        features = dict.fromkeys(torch.unique(flow.index).tolist(), factor)
        for source in flow.sources:
            for start, stop, _ in _runs(features):
                rows[Rescaled(source.name, source.axis, source.offset + start, source.offset + stop, factor)] = None
    return Scaling(tuple(rows), frozenset(attended))


def combined(all_rows: Iterable[Rescaled]) -> Iterator[Rescaled]:
    """The same with each row once; rows whose factors cancel out are left alone."""
    factors: dict[tuple[str, int], dict[int, float]] = {}
    for one in all_rows:
        rows = factors.setdefault((one.tensor, one.axis), {})
        for row in range(one.start, one.stop):
            rows[row] = rows.get(row, 1.0) * one.factor
    for (name, axis), rows in factors.items():
        changed = {row: factor for row, factor in rows.items() if not math.isclose(factor, 1, rel_tol=1e-12)}
        for start, stop, factor in _runs(changed):
            yield Rescaled(name, axis, start, stop, factor)


def _runs(factors: Mapping[int, float]) -> Iterator[tuple[int, int, float]]:
    """Rows that follow each other and have one factor, as one."""
    start = stop = -1
    current = 0.0
    for row, factor in sorted(factors.items()):
        if row != stop or factor != current:
            if stop > start:
                yield start, stop, current
            start, current = row, factor
        stop = row + 1
    if stop > start:
        yield start, stop, current


def _uses(module: nn.Module, inputs: Any) -> list[_Use]:
    found = list(slots(module))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    stand_in = {id(slot.tensor): _fake_like(fake, slot.tensor, slot.tensor.shape) for slot in found}
    names = {id(stand_in[id(slot.tensor)]): slot.name for slot in reversed(found) if slot.kind == "parameter"}
    fake_inputs = tree_map_only(Tensor, lambda t: _fake_like(fake, t, t.shape), inputs)
    follow = _Follow(names, list(stand_in.values()))
    with replaced(module, found, stand_in), torch.no_grad(), fake, follow:
        _run(module, fake_inputs)
    return follow.uses


_MULTIPLY = {aten.mul.Tensor, aten.mul.Scalar, aten.mul_.Tensor, aten.mul_.Scalar}
_DIVIDE = {aten.div.Tensor, aten.div.Scalar, aten.div_.Tensor, aten.div_.Scalar}
_SAME = {aten._to_copy.default, aten.clone.default}
_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten._reshape_copy.default}
_SUMS = {aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.masked_fill.Scalar, aten.masked_fill.Tensor}
_SOFTMAX = {aten._softmax.default, aten.softmax.int}
#: Norms with a scale and a shift, the axis of their channels, and where in the arguments the two are.
_NORMS: dict[Any, tuple[int, tuple[int, ...]]] = {
    aten.native_layer_norm.default: (-1, (2, 3)),
    aten._fused_rms_norm.default: (-1, (2,)),
    aten.native_group_norm.default: (1, (1, 2)),
    aten._native_batch_norm_legit_no_training.default: (1, (1, 2)),
    aten.native_batch_norm.default: (1, (1, 2)),
}


class _Follow(TorchDispatchMode):
    def __init__(self, names: dict[int, str], alive: list[Tensor]) -> None:
        super().__init__()
        self._names = names
        self._parameters = {names[id(t)]: t for t in alive if id(t) in names}
        self._views: dict[int, str] = dict(names)  # parameters and views of them
        self._flows: dict[int, _Flow] = {}
        self._alive = list(alive)  # ids are compared, so nothing may be freed and its id reused
        self.uses: list[_Use] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        results = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        operands = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self._alive += [*results, *operands]
        if func.is_view and id(operands[0]) in self._views:
            self._views |= {id(t): self._views[id(operands[0])] for t in results}
            return result
        flows = list(itertools.islice(self._followed(func, args, kwargs, results), len(results)))
        for tensor in results:
            self._flows.pop(id(tensor), None)  # written in place
        self._flows |= {id(tensor): flow for tensor, flow in zip(results, flows, strict=False)}
        return result

    def _flow(self, tensor: Any) -> _Flow:
        return self._flows.get(id(tensor), _Flow())

    def _followed(self, func: Any, args: Any, kwargs: Any, results: list[Tensor]) -> Iterator[_Flow]:
        """Flows of the results of one operator; none where nothing is known of them."""
        if func in _SAME:
            yield self._flow(args[0])
        elif func.is_view or func in _RESHAPES:
            yield from self._seen_otherwise(func, args, kwargs, results)
        elif func in _MULTIPLY or func in _DIVIDE:
            yield from self._multiplied(args[0], args[1], results[0], divide=func in _DIVIDE)
        elif func in (aten.addmm.default, aten.mm.default, aten.bmm.default, aten.convolution.default):
            yield self._contracted(func, args, kwargs, results[0])
        elif func is aten.baddbmm.default:
            yield self._product(args[1], args[2], kwargs.get("alpha", 1))
        elif func is aten.embedding.default and id(args[0]) in self._views:
            yield self._from(args[0], -1, [], -1, results[0])
        elif func in _NORMS:
            axis, places = _NORMS[func]
            weight, *others = (args[place] if len(args) > place else None for place in places)
            if "batch_norm" in str(func):
                self._use(str(func), self._flow(args[0]).factor, self._flow(args[0]))
            if weight is not None and id(weight) in self._views:
                yield self._from(weight, 0, others, axis, results[0])
        elif func in _SUMS:
            yield from self._added(args[0], args[1], results[0])
        elif func in _SOFTMAX:
            flow = self._flow(args[0])
            self._use("a softmax", flow.factor, *(flow.product or ()))
        elif "scaled_dot_product" in str(func):
            left, right = self._flow(args[0]), self._flow(args[1])
            scale = kwargs.get("scale")
            scale = args[0].shape[-1] ** -0.5 if scale is None else scale
            self._use("attention", left.factor * right.factor * scale, left, right)

    def _use(self, where: str, factor: float, *flows: _Flow) -> None:
        self.uses.append(_Use(where, factor, flows))

    def _seen_otherwise(self, func: Any, args: Any, kwargs: Any, results: list[Tensor]) -> Iterator[_Flow]:
        flow = self._flow(args[0])
        seen: Any = [None] * len(results)
        with unset_fake_temporarily(), contextlib.suppress(RuntimeError):  # views that its strides do not have
            if flow.index is not None and func in _RESHAPES:
                seen = [flow.index.reshape(results[0].shape)]
            elif flow.index is not None:
                seen = tree_leaves(func(flow.index, *args[1:], **kwargs))
        for index in seen:
            yield replace(flow, index=index)

    def _multiplied(self, left: Any, right: Any, result: Tensor, *, divide: bool) -> Iterator[_Flow]:
        if not isinstance(left, Tensor) or id(left) in self._views:
            left, right = right, left
        number = _number(right)
        if number:
            flow = self._flow(left)
            yield replace(flow, factor=flow.factor / number if divide else flow.factor * number)
        elif id(right) in self._views and right.dim() == 1 and not divide:
            yield replace(self._from(right, 0, [], -1, result), factor=self._flow(left).factor)

    def _added(self, left: Any, right: Any, result: Tensor) -> Iterator[_Flow]:
        flow = self._flow(left)
        if flow.product is not None:
            yield flow  # a mask or a bias on scores
        elif flow.factor == 1 and flow.index is not None and id(right) in self._views and right.dim() == 1:
            # A bias of its own belongs to the weight before it, feature by feature.
            yield replace(
                flow, sources=(*flow.sources, _Source(self._views[id(right)], 0, int(right.storage_offset())))
            )

    def _contracted(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> _Flow:
        bias: list[Any] = []
        if func is aten.convolution.default:
            (x, weight), bias = args[:2], [args[2]]
        else:
            x, weight = args[-2:]
            if func is aten.addmm.default:
                bias = [args[0]]
            if id(weight) not in self._views and id(x) in self._views:
                x, weight = weight, x
        if id(weight) not in self._views:
            return self._product(x, weight, 1)
        self._use(self._views[id(weight)], self._flow(x).factor, self._flow(x))
        if func is aten.convolution.default:
            return self._from(weight, 0, bias, 1, result)
        return self._from(weight, -1, bias, -1, result)

    def _product(self, left: Any, right: Any, number: float) -> _Flow:
        first, second = self._flow(left), self._flow(right)
        return _Flow(first.factor * second.factor * number, product=(first, second))

    def _from(self, weight: Tensor, features: int, biases: list[Any], axis: int, result: Tensor) -> _Flow:
        """An activation that a parameter has just made.

        Args:
            weight: The parameter, or a view of it.
            features: Which axis of ``weight`` counts the features.
            biases: Further parameters of the same features, and what else is there.
            axis: Which axis of ``result`` counts them.
            result: The activation.
        """
        name = self._views[id(weight)]
        whole, stride = self._parameters[name], weight.stride(features)
        rows = next((axis for axis, step in enumerate(whole.stride()) if step == stride), None)
        if rows is None:
            return _Flow()
        offset = int(weight.storage_offset()) // stride % whole.shape[rows]
        sources = [_Source(name, rows, offset)]
        for bias in biases:
            if isinstance(bias, Tensor):
                if id(bias) not in self._views or bias.dim() != 1:
                    return _Flow()
                sources.append(_Source(self._views[id(bias)], 0, int(bias.storage_offset())))
        with unset_fake_temporarily():
            shape = [1] * result.dim()
            shape[axis] = -1
            index = torch.arange(result.shape[axis], dtype=torch.int32).view(shape).expand(result.shape)
        return _Flow(sources=tuple(sources), index=index)


def _number(value: Any) -> float | None:
    """A number that is known: one of Python, or a fake tensor that remembers it."""
    if isinstance(value, int | float):
        return float(value)
    constant = getattr(value, "constant", None)
    return float(constant) if constant is not None and constant.numel() == 1 else None
