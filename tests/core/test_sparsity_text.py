"""A sparsity as it is written: exact, and never something that takes for ever to write out."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import PlanError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.9", Fraction(9, 10)), ("9/10", Fraction(9, 10)), (" 90% ", Fraction(9, 10)), (0.1, Fraction(1, 10)),
        ("1e-3", Fraction(1, 1000)), (1e-300, Fraction(1, 10**300)), ("0", Fraction(0)),
    ],
    ids=str,
)  # fmt: skip
def test_a_number_is_read_exactly(text: str | float, value: Fraction) -> None:
    assert parse_sparsity(text) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1", "outside"), ("-0.1", "outside"), ("x", "not a number"), ("1/0", "not a number"),
        ("1e-99999999", "too many digits"), ("1E9999%", "too many digits"), ("0." + "9" * 500, "too many digits"),
    ],
    ids=lambda value: value[:12],
)  # fmt: skip
def test_anything_else_is_refused_at_once(text: str, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        parse_sparsity(text)
