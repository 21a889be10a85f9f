"""Find the state dict in what a training script saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: Where training scripts put the weights, in the order in which a file that has several is read: the plain weights come
#: before a running average of them.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "params_ema",
    "ema",
)
_MAX_DEPTH = 4


@dataclass(frozen=True)
class StateDict:
    """What :func:`unwrap` found.

    Attributes:
        tensors: Tensors by name, as the caller's ``is_tensor`` knows them.
        wrapper: Dotted path of keys to them, or None for the top level.
        ignored: Dotted paths of the entries that were left out.
        holder: The object at ``wrapper`` that has the tensors: a mapping, or a module.
    """

    tensors: dict[str, Any]
    wrapper: str | None
    ignored: tuple[str, ...]
    holder: Any


def unwrap(
    root: Any, as_mapping: Callable[[Any], Mapping[Any, Any] | None], is_tensor: Callable[[Any], bool]
) -> StateDict:
    """Find the one mapping of names to tensors that is the model's.

    A mapping under one of :data:`WRAPPERS` is preferred to tensors beside it (an accuracy may be a tensor), and one
    under any other name is taken if it is the only one with tensors.

    Raises:
        ValueError: No tensor, or several mappings with tensors and no known name among them.
    """
    path: list[str] = []
    ignored: list[str] = []
    holder, current = root, as_mapping(root)
    if current is None:
        raise ValueError(
            "it holds a tensor without a name" if is_tensor(root) else "it holds no mapping of names to tensors"
        )
    for _ in range(_MAX_DEPTH):
        inner = _wrapped(current, as_mapping, is_tensor)
        if inner is None:
            break
        ignored += [".".join([*path, str(key)]) for key in current if key != inner]
        path.append(inner)
        holder = current[inner]
        current = as_mapping(holder) or {}
    tensors = {key: value for key, value in current.items() if isinstance(key, str) and is_tensor(value)}
    if not tensors:
        keys = ", ".join(repr(key)[:40] for key in list(current)[:6])
        raise ValueError(
            f"it holds no tensors by name (its keys: {keys})" if keys else "it is empty: it holds no tensors"
        )
    ignored += [".".join([*path, str(key)]) for key in current if key not in tensors]
    return StateDict(tensors, ".".join(path) or None, tuple(ignored), holder)


def _wrapped(
    current: Mapping[Any, Any], as_mapping: Callable[[Any], Mapping[Any, Any] | None], is_tensor: Callable[[Any], bool]
) -> str | None:
    """The key of ``current`` below which the tensors are, or None where they are in ``current`` itself."""

    #: What was looked at, which has to live on for its id to be its own: one mapping may be in another a million times.
    known: dict[tuple[int, int], tuple[bool, Any]] = {}

    def has_tensors(value: Any, depth: int) -> bool:
        at = id(value), depth
        if at not in known:
            inner = as_mapping(value) or {}
            found = any(is_tensor(v) for v in inner.values()) or (
                depth > 0 and any(has_tensors(inner.get(key), depth - 1) for key in WRAPPERS)
            )
            known[at] = found, value
        return known[at][0]

    for key in WRAPPERS:
        if key in current and has_tensors(current[key], 1):
            return key
    if any(isinstance(key, str) and is_tensor(value) for key, value in current.items()):
        return None
    others = [key for key, value in current.items() if isinstance(key, str) and has_tensors(value, 0)]
    if len(others) > 1:
        raise ValueError(
            f"its tensors are under {', '.join(map(repr, others[:6]))}, and none of these is a name sift knows"
        )
    return others[0] if others else None
