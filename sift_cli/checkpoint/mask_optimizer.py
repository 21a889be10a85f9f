"""Masks in the state of an optimizer of masks, which training scripts save beside the model.

Such an optimizer has the form of torch's, ``{"state": …, "param_groups": …}``, and a ``mask`` in the state of each of
its weights. Two are known: that of Sparse-IFT's code (``cbsparse/sparse/optimizers``, at ``mask_optimizer``), whose
groups have ``names``; and that of Cerebras' PyTorch 2.0 and 2.1 (``cerebras_pytorch/sparse``, at
``optimizer.sparsity``), whose state goes by names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

_MAX_DEPTH = 3


def masks(
    root: Any,
    as_mapping: Callable[[Any], Mapping[Any, Any] | None],
    is_tensor: Callable[[Any], bool],
    depth: int = _MAX_DEPTH,
    seen: dict[tuple[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Masks by the name of their weight, as they are in what a training script saved; empty where there are none.

    Args:
        root: What was saved.
        as_mapping, is_tensor: What the caller's mappings and tensors are.
        depth: Levels to look below.
        seen: What was looked at already, by its id and depth: one mapping may be in another a million times.

    Raises:
        ValueError: There are masks without names.
    """
    seen = {} if seen is None else seen
    if (id(root), depth) in seen:
        return {}
    seen[id(root), depth] = root
    holder = as_mapping(root)
    if not holder:
        return {}
    state = {key: as_mapping(entry) or {} for key, entry in (as_mapping(holder.get("state")) or {}).items()}
    found = {key: entry["mask"] for key, entry in state.items() if is_tensor(entry.get("mask"))}
    if found and "param_groups" in holder:
        names = _names(holder["param_groups"], as_mapping, found)
        if not names.keys() >= found.keys():
            raise ValueError("an optimizer of masks in it does not say which weights they are of")
        return {names[key]: mask for key, mask in found.items()}
    merged: dict[str, Any] = {}
    for inner in holder.values() if depth else ():
        merged |= masks(inner, as_mapping, is_tensor, depth - 1, seen)
    return merged


def _names(groups: Any, as_mapping: Callable[[Any], Mapping[Any, Any] | None], keys: Iterable[Any]) -> dict[Any, str]:
    """Key of the state → name of its weight: the key itself, or what stands in the place of the key in its group."""
    names: dict[Any, str] = {key: key for key in keys if isinstance(key, str)}
    for group in map(as_mapping, groups if isinstance(groups, list | tuple) else ()):
        listed, called = (group or {}).get("params"), (group or {}).get("names")
        if isinstance(listed, list | tuple) and isinstance(called, list | tuple) and len(listed) == len(called):
            pairs = zip(listed, called, strict=True)
            names |= {key: name for key, name in pairs if isinstance(key, int) and isinstance(name, str)}
    return names
