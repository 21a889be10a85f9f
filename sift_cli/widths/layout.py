"""How an axis is made up: which of its factors is counted outside and which inside.

An axis of 3 · 12 · (size of a head) rows grows inside each of its 36 parts, and one of channels · height · width at
its end. A size alone does not tell the two apart; the operators that split or merge axes do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch

aten = torch.ops.aten

_VIEWS = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten._reshape_alias.default}
_SPLITS = {aten.split.Tensor, aten.split_with_sizes.default}


@dataclass(frozen=True)
class Layout:
    """An axis as a product: ``factors`` from the outermost to the innermost."""

    whole: sympy.Expr
    factors: tuple[sympy.Expr, ...]


def layouts(func: Any, args: Sequence[Any], result: Any) -> Iterator[Layout]:
    """What one call of an operator tells about axes of symbolic sizes."""
    if func in _VIEWS:
        yield from _of_view(args[0].shape, result.shape)
    elif func in _SPLITS:
        axis = args[2] if len(args) > 2 else 0
        yield from _equal_parts(args[0].shape[axis], [part.shape[axis] for part in result])
    elif func is aten.cat.default:
        axis = args[1] if len(args) > 1 else 0
        yield from _equal_parts(
            result.shape[axis], [part.shape[axis] for part in args[0] if part.dim() == result.dim()]
        )
    elif func is aten.slice.Tensor:
        axis, step = (args[1] if len(args) > 1 else 0), (args[4] if len(args) > 4 else 1)
        whole, part = args[0].shape[axis], result.shape[axis]
        count, rest = divmod(_value(whole), max(_value(part), 1))
        if count > 1 and not rest and step in (1, count):
            factors = [count, part] if step == 1 else [part, count]
            yield from _layout(whole, factors)
    elif func is aten.native_group_norm.default:
        yield from _layout(args[4], [args[6], args[4] // args[6]])


def _of_view(before: Iterable[Any], after: Iterable[Any]) -> Iterator[Layout]:
    """Axes that a view merges or splits; axes of size 1 come and go."""
    left, right = ([size for size in shape if _value(size) != 1] for shape in (before, after))
    i = j = 0
    while i < len(left) and j < len(right):
        start = i, j
        above, below = _value(left[i]), _value(right[j])
        while above != below:
            if above < below:
                i += 1
                above *= _value(left[i])
            else:
                j += 1
                below *= _value(right[j])
        i, j = i + 1, j + 1
        merged, split = left[start[0] : i], right[start[1] : j]
        if len(split) == 1 and len(merged) > 1:
            yield from _layout(split[0], merged)
        elif len(merged) == 1 and len(split) > 1:
            yield from _layout(merged[0], split)


def _equal_parts(whole: Any, parts: Sequence[Any]) -> Iterator[Layout]:
    if len(parts) > 1 and len({_value(part) for part in parts}) == 1:
        for part in parts:
            yield from _layout(whole, [len(parts), part])


def _layout(whole: Any, factors: Sequence[Any]) -> Iterator[Layout]:
    if any(isinstance(size, torch.SymInt) for size in (whole, *factors)):
        yield Layout(_expr(whole), tuple(_expr(factor) for factor in factors))


def _value(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def _expr(size: Any) -> sympy.Expr:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


#: A size that grows, as its terms: {(symbol,): coefficient}, frozen.
Size = frozenset[tuple[tuple[sympy.Symbol, ...], int]]


def equal_parts(products: Iterable[tuple[Size, int, Size]], values: Mapping[Size, int]) -> dict[Size, int | None]:
    """In how many equal parts each size grows.

    Args:
        products: Triples (whole, n, factor): ``whole`` is n parts one after another, each of them made up as ``factor``
            is. With n = 1 both are made up alike.
        values: Present value of every size in ``products``.

    Returns:
        Parts by size; None where the products contradict each other, as the shuffled channels of ShuffleNet do.
    """
    parts: dict[Size, int | None] = dict.fromkeys(values, 1)
    pending = list(dict.fromkeys(products))
    changed = True
    while changed:
        changed = False
        for whole, count, factor in pending:
            outside, inside = parts[whole], parts[factor]
            common = None if outside is None or inside is None else math.lcm(outside, count * inside)
            if common is None or values[whole] % common:
                new: tuple[int | None, int | None] = (None, None)
            else:
                new = (common, common // count)
            if new != (outside, inside):
                parts[whole], parts[factor] = new
                changed = True
    return parts
