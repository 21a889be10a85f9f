"""What each weight does, from one run of the model on fake tensors of its present sizes.

Each activation carries a label: the weights whose contractions feed it with no other contraction in between. The label
that a contraction reads tells its place in the model, without any name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

INPUT = "<input>"
#: Marks of an activation on its way through attention: a product of two activations, and that after its softmax.
_PRODUCT, _SCORES, _ATTENDED = "<product>", "<scores>", "<attended>"

#: Contractions: operators that multiply activations with a weight, and the arguments that may hold the weight.
_CONTRACTIONS = {
    aten.convolution.default: (1,),
    aten.addmm.default: (2, 1),
    aten.mm.default: (1, 0),
    aten.bmm.default: (1, 0),
    aten.linear.default: (1,),
}
_MOST_AXES = 16  # more than any tensor has
_TABLE_LOOKUPS = {aten.index_select.default, aten.gather.default}


@dataclass(frozen=True)
class Site:
    """One use of a weight in a contraction, or of a table in a lookup."""

    weight: str
    op: str
    groups: int
    feeds_on: frozenset[str]


class Labels(TorchDispatchMode):
    """Follow each activation back to the contractions it comes from.

    Attributes:
        sites: Uses of weights, in order.
        fixed: Weight → axes that are no width whatever their size: spatial axes of a kernel, rows of a table.
        used: Names of all tensors that any operator has read.
        attention: Weight → its parts in attention, of "q", "k", "v" and "out".
    """

    def __init__(self, names: dict[int, str], inputs: list[Tensor], buffers: Collection[str] = ()) -> None:
        super().__init__()
        self.weights = dict(names)
        self._tables = {key: {name} for key, name in names.items() if name in buffers}  # what is made of buffers alone
        self._whole = frozenset(names)  # tensors that are a weight and not a view of one, whose axes are in place
        self.labels: dict[int, frozenset[str]] = {id(t): frozenset([INPUT]) for t in inputs}
        self.sites: list[Site] = []
        self.used: set[str] = set()
        self.attention: dict[str, set[str]] = defaultdict(set)
        self._fixed: dict[str, set[int]] = defaultdict(set)
        self._sliced: dict[str, set[int]] = defaultdict(set)
        self._factors: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        self._alive: list[Tensor] = []  # ids are compared, so nothing may be freed and its id reused

    @property
    def fixed(self) -> dict[str, set[int]]:
        contracted = {site.weight for site in self.sites if site.op != "embedding"}
        fixed = defaultdict(set, {name: set(axes) for name, axes in self._fixed.items()})
        for name, axes in self._sliced.items():
            if name not in contracted:  # a part of a table of positions, and not one of the parts of a fused weight
                fixed[name] |= axes
        return fixed

    def label(self, tensor: Tensor) -> frozenset[str]:
        return self.labels.get(id(tensor), frozenset())

    @property
    def read_on(self) -> frozenset[str]:
        """Weights whose result another contraction reads."""
        return frozenset[str]().union(*(site.feeds_on for site in self.sites))

    def ends_in(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` comes from a layer that no other contraction reads."""
        return any(not name.startswith("<") for name in self.label(tensor) - self.read_on)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operands = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        results = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        self._alive += operands + results
        named = [self.weights[id(t)] for t in operands if id(t) in self.weights]
        activations = [t for t in operands if id(t) not in self.weights]
        self.used.update(named)
        if operands and all(id(t) in self._tables for t in operands):
            tables = set[str]().union(*(self._tables[id(t)] for t in operands))
            self._tables |= {id(tensor): tables for tensor in results}
        if func is aten.slice.Tensor and id(operands[0]) in self._whole:
            self._note_slice(named[0], *args)
        if not activations and len(operands) == 1 and (func.is_view or func is aten.clone.default):
            for tensor in results:  # a transposed weight is still that weight
                self.weights[id(tensor)] = named[0]
            return result
        self._note_tables(func, args)
        label = self._contraction(func, args, operands)
        if label is None:
            label = frozenset[str]().union(*(self.label(t) for t in activations))
            if func in (aten._softmax.default, aten.softmax.int) and _PRODUCT in label:
                for name in self._factors[0]:
                    self.attention[name].add("q")
                for name in self._factors[1]:
                    self.attention[name].add("k")
                label = frozenset([_SCORES])
        for tensor in results:
            self.labels[id(tensor)] = label
        return result

    def _contraction(self, func: Any, args: Any, operands: list[Tensor]) -> frozenset[str] | None:
        """The label of the result where ``func`` contracts; None where it does not."""
        for position in _CONTRACTIONS.get(func, ()):
            if id(args[position]) not in self.weights:
                continue
            name = self.weights[id(args[position])]
            is_conv = func is aten.convolution.default
            feeds_on = frozenset[str]().union(*(self.label(t) for t in operands if id(t) not in self.weights))
            others = (t for t in operands if t is not args[position])
            for table in set[str]().union(*(self._tables.get(id(t), ()) for t in others)):
                self._fixed[table] |= set(range(_MOST_AXES))  # to a layer on a table of coordinates, that is the input
                feeds_on |= {INPUT}
            self.sites.append(Site(name, "conv" if is_conv else "linear", args[8] if is_conv else 1, feeds_on))
            if is_conv:
                self._fixed[name] |= set(range(2, args[position].dim()))
            if _ATTENDED in feeds_on:
                self.attention[name].add("out")
            return frozenset([name])
        if func is aten.embedding.default and id(args[0]) in self.weights:
            name = self.weights[id(args[0])]
            self.sites.append(Site(name, "embedding", 1, frozenset([INPUT])))
            return frozenset([f"<table {name}>"])  # a tied weight is a table at one end and a layer at the other
        if "scaled_dot_product" in str(func):
            for part, tensor in zip("qkv", args, strict=False):
                for name in self.label(tensor):
                    self.attention[name].add(part)
            return frozenset([_ATTENDED])
        if func in (aten.bmm.default, aten.baddbmm.default):
            left, right = (self.label(t) for t in args[-2:])
            if _SCORES in left or _SCORES in right:
                for name in left | right:
                    if not name.startswith("<"):
                        self.attention[name].add("v")
                return frozenset([_ATTENDED])
            self._factors = (left - {_ATTENDED, _PRODUCT}, right - {_ATTENDED, _PRODUCT})
            return left | right | {_PRODUCT}
        return None

    def _note_tables(self, func: Any, args: Any) -> None:
        if not args or id(args[0]) not in self._whole:
            return
        name = self.weights[id(args[0])]
        if func is aten.embedding.default:
            self._fixed[name].add(0)
        elif func is aten.index.Tensor:
            self._fixed[name] |= {axis for axis, index in enumerate(args[1]) if index is not None}
        elif func in _TABLE_LOOKUPS:
            self._fixed[name].add(args[1] % args[0].dim())
        elif "upsample" in str(func) or "grid_sampler" in str(func):
            self._fixed[name] |= set(range(2, args[0].dim()))

    def _note_slice(self, name: str, tensor: Tensor, dim: int = 0, start: Any = None, end: Any = None, *_: Any) -> None:
        axis = dim % tensor.dim()
        if (start or 0) > 0 or (end is not None and end < tensor.shape[axis]):
            self._sliced[name].add(axis)
