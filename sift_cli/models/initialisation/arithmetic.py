"""Operators of torch as arithmetic on distributions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sift_cli.models.initialisation.draw import Draw

#: What an operator makes of the distribution of its first operand (None where that is not known, or there is none) and
#: of its arguments by name; a tensor among them is given by its distribution. None where no name fits.
Operator = Callable[[Draw | None, Mapping[str, Any]], Draw | None]


def _number(value: Any) -> float | None:
    if isinstance(value, Draw):
        return value.a if value.distribution == "constant" else None
    return float(value) if isinstance(value, int | float) else None


def _affine(draw: Draw | None, scale: float | None, shift: float | None) -> Draw | None:
    return None if draw is None or scale is None or shift is None else draw.affine(scale, shift)


def _constant(value: Any) -> Draw | None:
    number = _number(value)
    return None if number is None else Draw("constant", number)


def _normal(draw: Draw | None, given: Mapping[str, Any]) -> Draw | None:
    mean, std = _number(given["mean"]), _number(given["std"])
    if mean is None or std is None:
        return None
    return Draw("normal", mean, std) if std else Draw("constant", mean)


def _times(draw: Draw | None, given: Mapping[str, Any]) -> Draw | None:
    if _number(draw) is not None and isinstance(given["other"], Draw):
        return given["other"].affine(_number(draw) or 0.0)  # the number is the first operand
    return _affine(draw, _number(given["other"]), 0.0)


def _over(draw: Draw | None, given: Mapping[str, Any]) -> Draw | None:
    by = _number(given["other"])
    return _affine(draw, 1 / by, 0.0) if by and given.get("rounding_mode") is None else None


def _plus(draw: Draw | None, given: Mapping[str, Any], sign: int = 1) -> Draw | None:
    other, alpha = _number(given["other"]), _number(given.get("alpha", 1))
    return None if other is None or alpha is None else _affine(draw, 1.0, sign * alpha * other)


OPERATORS: dict[str, Operator] = {
    "uniform": lambda draw, given: Draw("uniform", float(given["from"]), float(given["to"])),
    "normal": _normal,
    "rand": lambda draw, given: Draw("uniform", 0.0, 1.0),
    "randn": lambda draw, given: Draw("normal", 0.0, 1.0),
    "fill": lambda draw, given: _constant(given["value"]),
    "full": lambda draw, given: _constant(given["fill_value"]),
    "scalar_tensor": lambda draw, given: _constant(given["s"]),
    "zero": lambda draw, given: Draw("constant", 0.0),
    "zeros": lambda draw, given: Draw("constant", 0.0),
    "ones": lambda draw, given: Draw("constant", 1.0),
    "copy": lambda draw, given: given["src"] if isinstance(given["src"], Draw) else None,
    "mul": _times,
    "div": _over,
    "add": _plus,
    "sub": lambda draw, given: _plus(draw, given, -1),
    "neg": lambda draw, given: _affine(draw, -1.0, 0.0),
    "erfinv": lambda draw, given: None if draw is None else draw.erfinv(),
    "clamp": lambda draw, given: None if draw is None else draw.clamp(_number(given["min"]), _number(given["max"])),
}
for _name in ("rand", "randn", "full", "zeros", "ones"):
    OPERATORS[f"{_name}_like"] = OPERATORS[f"new_{_name}"] = OPERATORS[_name]
