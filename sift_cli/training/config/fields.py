"""Values of a configuration, checked where they are read. Each is named by its path of keys: ``sparsity[1].update``."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterator
from typing import Any

from sift_cli.errors import PlanError


def below(at: str, key: str) -> str:
    """Path of what ``at`` has under ``key``; ``at`` is empty for the whole configuration."""
    if not re.fullmatch(r"\w+", key):
        return f"{at}[{key[:60]!r}]"
    return f"{at}.{key}" if at else key


def told(at: str) -> str:
    """``at``, in a sentence."""
    return at or "the configuration"


def mapping(value: Any, at: str, known: Collection[str], *, needs: Collection[str] = ()) -> dict[str, Any]:
    """A mapping with keys of ``known`` only, and with all of ``needs``.

    Raises:
        PlanError: It is not.
    """
    if not isinstance(value, dict):
        raise wrong(value, at, f"a mapping of {_listed(known)}")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:60], known, n=1)
            raise PlanError(
                f"{told(at)} has the key {describe(key)}, which means nothing there",
                hint=f"did you mean {near[0]!r}?" if near else f"it takes {_listed(known)}",
            )
    for key in needs:
        if key not in value:
            raise PlanError(f"{told(at)} has no {key!r}", hint=f"it needs {_listed(needs)}")
    return value


def number(value: Any, at: str, *, least: float = -math.inf, most: float = math.inf, open: bool = False) -> float:
    """A finite number from ``least`` to ``most``; without ``most`` itself if ``open``.

    Raises:
        PlanError: It is not.
    """
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value, re.IGNORECASE):
        raise PlanError(
            f"{at} is the text {value[:40]!r} for YAML", hint=f"with a point it is a number: {_dotted(value)}"
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise wrong(value, at, "a number")
    if not least <= value <= most or (open and value == most):
        end = ")" if open else "]"
        told = f"a number in [{least:g}, {most:g}{end}" if most < math.inf else f"a number from {least:g} on"
        raise wrong(value, at, told)
    return float(value)


def integer(value: Any, at: str, *, least: int) -> int:
    """A whole number from ``least`` on, of at most 63 bits.

    Raises:
        PlanError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
        raise wrong(value, at, f"a whole number from {least} on")
    return value


def choice(value: Any, at: str, options: Collection[str]) -> str:
    """One of ``options``, in any case.

    Raises:
        PlanError: It is not.
    """
    if isinstance(value, str) and value.lower() in options:
        return value.lower()
    near = difflib.get_close_matches(value.lower(), options, n=1) if isinstance(value, str) else []
    error = wrong(value, at, f"one of {_listed(options)}")
    error.hint = f"did you mean {near[0]!r}?" if near else None
    raise error


def texts(value: Any, at: str) -> Iterator[tuple[str, str]]:
    """(text, its path) of a text or of each in a list.

    Raises:
        PlanError: It is neither, or the list is empty.
    """
    if isinstance(value, str):
        yield value, at
    elif not isinstance(value, list) or not value:
        raise wrong(value, at, "a text or a list of texts")
    else:
        for index, one in enumerate(value):
            if not isinstance(one, str):
                raise wrong(one, f"{at}[{index}]", "a text")
            yield one, f"{at}[{index}]"


def wrong(value: Any, at: str, expected: str) -> PlanError:
    """The error for a value that is not what is expected there."""
    return PlanError(f"{told(at)} is {describe(value)}, and not {expected}")


def describe(value: Any) -> str:
    """A value in a few words; never all of it, as it may be anything."""
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return "a number of more than 63 bits"
    if isinstance(value, str):
        return repr(value[:40] + "…" if len(value) > 40 else value)
    return str(value)[:40] if isinstance(value, int | float) else f"a {type(value).__name__}"


def _listed(names: Collection[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _dotted(text: str) -> str:
    mantissa, exponent = text.lower().split("e")
    return f"{mantissa}.0e{exponent if exponent[0] in '-+' else '+' + exponent}"
