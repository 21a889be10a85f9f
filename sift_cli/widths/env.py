"""A shape environment that takes notes.

Each size of the model becomes a symbol that carries its present value. PyTorch's own shape kernels then ask questions
about the symbols ("is the weight's second axis as long as the input's channels?"). :class:`WidthEnv` answers each
from the present
values, and keeps every equality that was answered with yes: together they are what couples the widths of the model.

The stock ``ShapeEnv`` would simplify, bound and solve while it traces, which no one needs here: 26 s for GPT-2
instead of 4. The overridden methods are private to PyTorch, so the tested versions are pinned in ``constraints.txt``
and the zoo runs in CI.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, cast

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy.functions import FloorDiv
from torch.utils._sympy.value_ranges import ValueRanges

from sift_cli.models import calling

_SKIPPED_FOLDERS = tuple(
    os.path.dirname(file) + os.sep
    for file in (torch.__file__, sympy.__file__, __file__, calling.__file__)
    if file is not None
)


def is_models_code(file: str) -> bool:
    """Whether a source file is neither PyTorch's, sympy's nor ours, so that a user may look into it."""
    return not file.startswith(_SKIPPED_FOLDERS) and "<" not in file and "functools" not in file


@dataclass(frozen=True)
class Frame:
    """A place in the user's code."""

    file: str
    line: int
    code: str
    operator: str = ""  # that asked for a shape; "" while Python code of the model ran
    fixed: bool = False  # the size was not compared with a number, but made one

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line} in {self.code}"


@dataclass(frozen=True)
class Equation:
    """``left == right``, true at the present sizes, and the line of the model that asked."""

    left: sympy.Expr
    right: sympy.Expr
    frame: Frame


class WidthEnv(ShapeEnv):
    """Answers from the present sizes, records equalities."""

    def __init__(self) -> None:
        super().__init__(duck_shape=False, specialize_zero_one=True)
        self.equations: dict[tuple[sympy.Expr, sympy.Expr], Equation] = {}
        self.operator = ""  # that is running; "" while Python code of the model is
        self._values: dict[sympy.Basic, sympy.Basic] = {}
        self._numbers: dict[sympy.Basic, sympy.Basic] = {}  # symbols that are no widths
        self._replacements_version_counter = 1  # at 0, SymNode would not ask for any

    def symbol(self, name: str, value: int) -> tuple[sympy.Symbol, torch.SymInt]:
        """A fresh symbol for a size, and the SymInt that stands in for it while the model runs."""
        source = ConstantSource(name)
        symbol = self.create_symbol(value, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
        return symbol, cast(torch.SymInt, self.create_symintnode(symbol, hint=value, source=source))

    def value(self, expr: sympy.Basic) -> sympy.Basic:
        """``expr`` at the present sizes."""
        known = self._values.get(expr)
        if known is None:
            known = self._values[expr] = expr.xreplace(self.backed_var_to_val)
        return known

    def _record(self, expr: sympy.Basic, answer: sympy.Basic) -> None:
        if (isinstance(expr, sympy.And) and answer is sympy.true) or (
            isinstance(expr, sympy.Or) and answer is sympy.false
        ):
            for part in expr.args:
                self._record(part, answer)
            return
        if (isinstance(expr, sympy.Eq) and answer is sympy.true) or (
            isinstance(expr, sympy.Ne) and answer is sympy.false
        ):
            left, right, fixed = expr.lhs, expr.rhs, False
        elif answer.is_Integer:
            # The size was turned into a Python int: from here on the model's code sees a literal.
            left, right, fixed = expr, answer, True
        else:
            return  # an inequality, or an equality that does not hold: it couples nothing
        if (left, right) not in self.equations:
            self.equations[left, right] = Equation(left, right, _user_frame(self.operator, fixed))

    # Overrides of ShapeEnv. All questions end in one of these.

    def evaluate_expr(self, orig_expr: sympy.Basic, *args: Any, **kwargs: Any) -> sympy.Basic:
        if not isinstance(orig_expr, sympy.Basic):
            return sympy.sympify(orig_expr)
        if orig_expr.is_number or orig_expr in (sympy.true, sympy.false):
            return orig_expr
        answer = self.value(orig_expr)
        self._record(orig_expr, answer)
        return answer

    def guard_or_defer_runtime_assert(self, orig_expr: sympy.Basic, msg: str, fx_node: Any = None) -> bool:  # type: ignore[override]
        return bool(self.evaluate_expr(orig_expr))

    def _maybe_evaluate_static(  # type: ignore[override]
        self, expr: sympy.Basic, *, compute_hint: bool = False, **kwargs: Any
    ) -> sympy.Basic | None:
        if expr.is_number or expr in (sympy.true, sympy.false):
            return expr
        return self.value(expr) if compute_hint else None

    def replace(self, expr: sympy.Basic) -> sympy.Basic:  # type: ignore[override]
        """``expr`` without the symbols that turned out to be no widths.

        A number is divided by the size of a window or a chunk, never by a width; and what such a symbol does to the
        size of an image grows from layer to layer (over four minutes of ``sympy.simplify`` for maxvit_t). It may be
        divided by a ratio of widths (Hiera: tokens by tokens of a window), which is left alone.
        """
        if isinstance(expr, FloorDiv) and expr.base.is_Integer and not expr.divisor.has(FloorDiv):
            for symbol in expr.divisor.free_symbols - self._numbers.keys():
                self._numbers[symbol] = self.value(symbol)
                self._record(symbol, self._numbers[symbol])
                self._replacements_version_counter += 1
        if self._numbers.keys().isdisjoint(expr.free_symbols):
            return expr
        return expr.xreplace(self._numbers)

    def simplify(self, expr: sympy.Basic, size_oblivious: bool = False) -> sympy.Basic:  # type: ignore[override]
        return expr

    def _simplify_floor_div(self, expr: sympy.Basic) -> sympy.Basic:  # type: ignore[override]
        return expr

    def bound_sympy(self, expr: sympy.Expr, size_oblivious: bool = False) -> ValueRanges:
        value = self.value(expr)
        return ValueRanges(value, value) if value.is_Integer else ValueRanges.unknown_int()


def _user_frame(operator: str, fixed: bool) -> Frame:
    """The innermost frame that is neither PyTorch's, sympy's nor ours."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if is_models_code(frame.f_code.co_filename):
            break
        frame = frame.f_back
    return Frame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, operator, fixed)
