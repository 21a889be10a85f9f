"""JSON from files nobody vouches for."""

from __future__ import annotations

import json
from typing import Any

from sift_cli.checkpoint._bytes import most_items


def loads(data: bytes | str, most: int = most_items(0)) -> Any:
    """Parse JSON as strictly as the format is written down.

    Args:
        most: Values that it may have, more or less: commas, colons and brackets are counted, in its strings too.

    Raises:
        ValueError: It has more than that. Not UTF-8, not JSON, a key twice in one object, a string with half a
            surrogate pair (it could not be printed), NaN or Infinity, or nested too deeply to parse.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        if sum(map(text.count, ",:[{")) > most:
            raise ValueError(f"it has more than {most:,} values")
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
