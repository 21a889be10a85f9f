"""What a handle needs to know of the values of a traced graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Product(NamedTuple):
    """MACs of one product and the operands that may be a weight (the first that is one counts)."""

    op: str
    macs: int
    operands: tuple[Any, ...] = ()


#: The operator is met, not counted, and has to be listed.
LISTED: None = None

# torch._C.Value has no public type.
Values = Sequence[Any]
Handle = Callable[[Values, Values], "list[Product] | None"]


def shape(value: Any) -> tuple[int, ...]:
    """Shape of a traced tensor.

    Raises:
        ValueError: The trace knows none.
    """
    sizes = rank_and_sizes(value)
    if sizes is None:
        raise ValueError(f"{value.debugName()} has no shape in the trace")
    return sizes


def rank_and_sizes(value: Any) -> tuple[int, ...] | None:
    return tuple(value.type().sizes()) if value.isCompleteTensor() else None


def items(value: Any) -> list[Any]:
    """The values that a traced list was made of."""
    return list(value.node().inputs())
