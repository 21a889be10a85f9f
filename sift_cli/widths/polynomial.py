"""Integer polynomials in sizes, just enough of them for width equations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import sympy
from torch.utils._sympy.functions import CleanDiv, FloorDiv, Max, Mod, PythonMod

#: A product of sizes: the symbols in a fixed order, repeated for powers. The empty product is a constant.
Monomial = tuple[sympy.Symbol, ...]


class NotPolynomial(Exception):
    """An expression that is no polynomial in sizes (a remainder that is not 0, a maximum, a power)."""


class Polynomial(dict[Monomial, int]):
    """Monomials to their coefficients; a coefficient of 0 is never stored."""

    @classmethod
    def constant(cls, value: int) -> Polynomial:
        return cls({(): value} if value else {})

    @classmethod
    def of(cls, symbol: sympy.Symbol) -> Polynomial:
        return cls({(symbol,): 1})

    def __add__(self, other: Polynomial) -> Polynomial:
        result = Polynomial(self)
        for monomial, coefficient in other.items():
            total = result.pop(monomial, 0) + coefficient
            if total:
                result[monomial] = total
        return result

    def __mul__(self, other: Polynomial) -> Polynomial:
        result = Polynomial()
        for a, p in self.items():
            for b, q in other.items():
                result += Polynomial({tuple(sorted(a + b, key=str)): p * q})
        return result

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + Polynomial({monomial: -c for monomial, c in other.items()})

    def symbols(self) -> set[sympy.Symbol]:
        return {symbol for monomial in self for symbol in monomial}

    def substitute(self, values: Mapping[sympy.Symbol, sympy.Symbol | int]) -> Polynomial:
        """Replace symbols by symbols or numbers."""
        result = Polynomial()
        for monomial, coefficient in self.items():
            term = Polynomial.constant(coefficient)
            for symbol in monomial:
                to = values.get(symbol, symbol)
                term = term * (Polynomial.constant(to) if isinstance(to, int) else Polynomial.of(to))
            result += term
        return result

    def reduced(self) -> Polynomial:
        """Divided by every size and every number that all its terms share (sizes are positive), its first term
        positive."""
        if not self:
            return self
        shared: list[sympy.Symbol] = []
        for symbol in min(self, key=len):
            rest = [_without(monomial, [*shared, symbol]) for monomial in self]
            if all(r is not None for r in rest):
                shared.append(symbol)
        divisor = math.gcd(*self.values())
        if self[min(self, key=str)] < 0:
            divisor = -divisor  # one of the two signs, so that an equation asked both ways is one equation
        return Polynomial(
            {tuple(_without(monomial, shared) or ()): coefficient // divisor for monomial, coefficient in self.items()}
        )


def _without(monomial: Monomial, symbols: list[sympy.Symbol]) -> list[sympy.Symbol] | None:
    rest = list(monomial)
    for symbol in symbols:
        if symbol not in rest:
            return None
        rest.remove(symbol)
    return rest


def polynomial(expr: sympy.Expr, quotient: Callable[[sympy.Expr, sympy.Expr], Polynomial]) -> Polynomial:
    """Convert a size expression.

    Args:
        expr: What PyTorch's shape kernels made of symbols.
        quotient: Called for ``a // b`` and for ``a % b == 0``; returns the quotient as a polynomial.

    Raises:
        NotPolynomial: It is none.
    """
    if expr.is_Integer:
        return Polynomial.constant(int(expr))
    if expr.is_Symbol:
        return Polynomial.of(expr)
    if isinstance(expr, sympy.Add):
        total = Polynomial()
        for term in expr.args:
            total += polynomial(term, quotient)
        return total
    if isinstance(expr, sympy.Mul):
        product = Polynomial.constant(1)
        for factor in expr.args:
            product = product * polynomial(factor, quotient)
        return product
    if isinstance(expr, sympy.Pow) and expr.exp.is_Integer and 0 < expr.exp < 8:
        product = Polynomial.constant(1)
        for _ in range(int(expr.exp)):
            product = product * polynomial(expr.base, quotient)
        return product
    if isinstance(expr, FloorDiv | CleanDiv):
        return quotient(*expr.args)
    if isinstance(expr, Mod | PythonMod):
        quotient(*expr.args)
        return Polynomial()
    if isinstance(expr, Max):
        # Strides are at least 1, and sizes are positive.
        sizes = [arg for arg in expr.args if not arg.is_number]
        if len(sizes) == 1:
            return polynomial(sizes[0], quotient)
    raise NotPolynomial(str(expr))
