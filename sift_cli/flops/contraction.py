"""MACs of products, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = Sequence[int]


def matmul_macs(a: Shape, b: Shape) -> int:
    """MACs of ``matmul`` by numpy's rules: a vector is a row on the left, a column on the right, batches broadcast."""
    rows = a[-2] if len(a) > 1 else 1
    columns = b[-1] if len(b) > 1 else 1
    return math.prod(broadcast(a[:-2], b[:-2])) * rows * a[-1] * columns


def attention_macs(query: Shape, key: Shape, value: Shape) -> int:
    """MACs of the two products of attention, Q·Kᵀ and scores·V, on [..., heads, length, width].

    Keys and values with fewer heads than queries are shared. A causal mask is not subtracted: a counter that knows only
    shapes cannot know whether a kernel skips the masked half.
    """
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def einsum_products(
    equation: str, shapes: Sequence[Shape], path: Sequence[int] | None = None
) -> list[tuple[int, tuple[int, ...]]]:
    """The products of an einsum, contracted two operands at a time.

    Args:
        equation: As for ``torch.einsum``, with or without "->", ellipses allowed.
        shapes: One shape an operand.
        path: Pairs of positions as torch passes them (flat); None contracts from left to right.

    Returns:
        For each step that sums over an index, its MACs and the positions of the operands that it takes as they are (not
        an intermediate result, and not summed beforehand). A step that sums over none is elementwise: no product.
    """
    operands, output = _parse(equation, shapes)
    size: dict[str, int] = {}
    for labels, shape in zip(operands, shapes, strict=True):
        for label, n in zip(labels, shape, strict=True):
            size[label] = max(size.get(label, 1), n)
    queue: list[tuple[str, int | None]] = [(labels, at) for at, labels in enumerate(operands)]
    steps = list(zip(path[::2], path[1::2], strict=True)) if path else [(0, 1)] * (len(queue) - 1)
    products = []
    for i, j in steps:
        (right, right_at), (left, left_at) = queue.pop(max(i, j)), queue.pop(min(i, j))
        needed = set(output).union(*(labels for labels, _ in queue))
        # An index that only one side has and nobody needs is summed before the product.
        shared = set(left) & set(right)
        taking_part = (set(left) | set(right)) & (shared | needed)
        if any(size[label] > 1 for label in shared - needed):
            whole = [at for labels, at in ((left, left_at), (right, right_at)) if set(labels) <= taking_part]
            macs = math.prod(size[label] for label in taking_part)
            products.append((macs, tuple(at for at in whole if at is not None)))
        result = ("".join(sorted(taking_part & needed)), None)
        queue = [*queue, result] if path else [result, *queue]
    return products


def broadcast(*shapes: Shape) -> tuple[int, ...]:
    """The shape that ``shapes`` broadcast to."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))


def _parse(equation: str, shapes: Sequence[Shape]) -> tuple[list[str], str]:
    """Labels of each operand and of the output, an ellipsis spelled out in labels that align at the last axis."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    written = left.split(",")
    operands = []
    widest = ""
    for labels, shape in zip(written, shapes, strict=True):
        hidden = "".join(chr(0xE000 + i) for i in reversed(range(len(shape) - len(labels.replace("...", "")))))
        widest = max(widest, hidden, key=len)
        operands.append(labels.replace("...", hidden))
    if not arrow:
        once = sorted(label for label in set(left) - set(",.") if left.count(label) == 1)
        return operands, widest + "".join(once)
    return operands, right.replace("...", widest)
