"""Patterns: which positions the kept weights of a tensor may have.

A pattern is a module in this folder. It offers ``SYNTAX``, how the pattern is written, and ``parse(text)``, the
:class:`Pattern` that ``text`` stands for or None. All patterns count exactly and in closed form, and none keeps a
larger share of a tensor than its name says: a mask is paid for out of a FLOP budget.
"""

from __future__ import annotations

from sift_cli.errors import PlanError
from sift_cli.registry import discover
from sift_cli.sparsity.patterns._base import Gemm, Pattern

__all__ = ["Gemm", "Pattern", "parse", "syntax"]


def syntax() -> tuple[str, ...]:
    """How each pattern is written, for help texts."""
    return tuple(text for module in discover(__name__).values() for text in module.SYNTAX)


def parse(text: str) -> Pattern:
    """The pattern written ``text``.

    Raises:
        PlanError: There is none of that name.
    """
    for module in discover(__name__).values():
        pattern: Pattern | None = module.parse(text)
        if pattern is not None:
            return pattern
    raise PlanError(f"there is no pattern {text[:40]!r}", hint=f"patterns are {', '.join(syntax())}")
