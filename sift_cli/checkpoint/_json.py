"""JSON from files nobody vouches for."""

from __future__ import annotations

import json
from typing import Any


def loads(data: bytes | str) -> Any:
    """Parse JSON as strictly as the format is written down.

    Raises:
        ValueError: Not UTF-8, not JSON, a key twice in one object, a string with half a surrogate pair (it could not be
            printed), NaN or Infinity, or nested too deeply to parse.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeError as error:
        raise ValueError(f"it is not UTF-8 ({error.reason})" if hasattr(error, "reason") else str(error)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} is there twice")
    for key, value in pairs:
        key.encode()
        if isinstance(value, str):
            value.encode()
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
