"""Keys and values → frozen dataclasses. A key that nobody reads is an error, with its path and the nearest there is."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, TypeVar, Union

from sift_cli.errors import PlanError
from sift_cli.training.config import fields as checked

T = TypeVar("T")
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


@dataclasses.dataclass(frozen=True)
class Named:
    """Something that is chosen by name, and its arguments: ``{name: sgd, lr: 0.1}``, or ``sgd`` alone.

    Whoever makes the thing knows which arguments there are, and checks them.
    """

    name: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read(make: Callable[..., T], document: Any, at: str, **fixed: Any) -> T:
    """What a dataclass or a function makes of a mapping; every value is checked against the annotation of its argument.

    Args:
        make: What takes the values, by keyword.
        document: What YAML gave.
        at: Path of keys to the document, "" for all of it.
        fixed: Arguments that the document has no say in.

    Raises:
        PlanError: A key is unknown or missing, or a value is of another type.
    """
    parameters = {name: one for name, one in inspect.signature(make).parameters.items() if name not in fixed}
    needs = [name for name, one in parameters.items() if one.default is one.empty]
    given = mapping(document, at, parameters, needs=needs)
    hints = typing.get_type_hints(make)
    return make(**{key: _convert(value, hints[key], checked.below(at, key)) for key, value in given.items()}, **fixed)


def mapping(document: Any, at: str, known: Collection[str], *, needs: Collection[str] = ()) -> dict[str, Any]:
    """Keys of ``known`` only, and all of ``needs``; see :func:`sift_cli.training.config.fields.mapping`."""
    if not known and isinstance(document, Mapping) and document:
        raise PlanError(f"{at} takes no arguments", hint=f"leave out {next(iter(document))!r}")
    return checked.mapping(document, at, sorted(known), needs=needs) if known else {}


def numbers(document: Any) -> Any:
    """``document`` with 1e-4 as a number, which YAML takes for a text because it has no point."""
    if isinstance(document, dict):
        return {key: numbers(value) for key, value in document.items()}
    if isinstance(document, list):
        return [numbers(value) for value in document]
    return float(document) if isinstance(document, str) and _NUMBER.fullmatch(document) else document


def plain(value: Any) -> Any:
    """Inverse of :func:`read`: values as YAML and JSON have them, without what is at its default."""
    if isinstance(value, Named):
        return {"name": value.name, **plain(value.arguments)}
    if dataclasses.is_dataclass(value):
        given = {spec.name: (getattr(value, spec.name), spec.default) for spec in dataclasses.fields(value)}
        return {key: plain(one) for key, (one, default) in given.items() if one != default}
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def _convert(value: Any, kind: Any, at: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _any_of(value, arguments, at)
    if origin is Literal:
        return checked.choice(value, at, arguments)
    if origin in (tuple, Sequence):
        items = value if isinstance(value, list) else [value]
        return tuple(_convert(item, arguments[0], f"{at}[{index}]") for index, item in enumerate(items))
    if kind is Named:
        return _named(value, at)
    if kind is float:
        return checked.number(value, at)
    if kind is int:
        return checked.integer(value, at, least=0)
    if kind is Fraction:
        try:
            return Fraction(str(value))  # as it is written: 0.9 is 9/10
        except (ValueError, ZeroDivisionError):
            raise checked.wrong(value, at, "a number") from None
    if not isinstance(value, kind):
        raise checked.wrong(value, at, {bool: "true or false", str: "a word"}[kind])
    return value


def _any_of(value: Any, kinds: tuple[Any, ...], at: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    problem = None
    for kind in kinds:
        if kind is type(None) or typing.get_origin(kind) is Callable:  # a recipe has no functions
            continue
        try:
            return _convert(value, kind, at)
        except PlanError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _named(value: Any, at: str) -> Named:
    if isinstance(value, str):
        return Named(value)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise checked.wrong(value, at, "a name, or a mapping with a 'name' in it")
    for key in value:
        if not isinstance(key, str):
            raise PlanError(f"{at} has a key that is no word: {checked.describe(key)}")
    return Named(value["name"], {key: one for key, one in value.items() if key != "name"})
