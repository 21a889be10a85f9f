"""The configuration of a transformers model as JSON values, and what one from a file may say.

A configuration chooses classes by name and hands them whatever else it holds. Some of that makes transformers fetch or
run code, open files or swap kernels; none of it is needed to build a model of some size.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Keys that say where a configuration came from, or how it is to be run on one machine. Left out.
_DROPPED_KEYS = """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash
    _experts_implementation _experts_implementation_internal _name_or_path architectures attn_implementation
    experts_implementation name_or_path torch_dtype transformers_version use_kernels
"""
_DROPPED = frozenset(_DROPPED_KEYS.split())
#: Keys that make transformers do something else than build the model. Refused, unless they are empty.
_REFUSED_KEYS = """
    auto_map backbone_kwargs custom_pipelines distributed_config fusion_config kernel_config model_args
    transformers_weights
"""
_REFUSED = frozenset(_REFUSED_KEYS.split())
#: Keys of a model of timm's or transformers' own. Anything but a name would be looked for in folders and on the Hub.
_MODEL_KEYS = frozenset({"architecture", "backbone"})
_NAME = re.compile(r"[\w.-]*")
#: Keys that say how weights are stored. Refused, unless compressed-tensors says there that they are sparse, no more.
_STORAGE_KEYS = frozenset({"quantization_config", "compression_config"})
_SPARSE_KEYS = frozenset({"quant_method", "sparsity_config", "version", "ignore", "global_compression_ratio", "format"})
_SPARSE_FORMATS = ("dense", "sparse-bitmask", "sparse-24-bitmask")
#: Characters and values of a configuration: the longest, with 21,000 class names, have a third of them.
_MAX_LENGTH = 2**22
_MAX_VALUES = 2**17
_MAX_DEPTH = 8
#: What a key may count, and how many of them. A loop over each runs before a model has a shape.
_MOST = {re.compile(r"layer|depth|block|stage"): 4096, re.compile(r"num_(labels|classes)"): 2**16}
#: Which part of a head is rotated, of EfficientLoFTR's four times one. Tables are as wide.
_ROTATED = re.compile(r"rotary.*(factor|pct|percent|fraction)")
_MOST_ROTATED = 16


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without what belongs to one machine or one file, after checking what is left.

    Raises:
        ValueError: It is not made of JSON values, is too large, or asks for more than a model's shape.
    """
    cleaned: dict[str, Any] = _without(config)
    check(cleaned)
    return cleaned


def check(config: Any) -> None:
    """Refuse a configuration that :func:`portable` would not have returned.

    Raises:
        ValueError: See :func:`portable`.
    """
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError("a configuration is an object with a model_type")
    for count, (path, value) in enumerate(_walk(config, ())):
        if count > _MAX_VALUES:
            raise ValueError(f"its configuration has more than {_MAX_VALUES:,} values")
        key = next((part for part in reversed(path) if not part.isdecimal()), "")
        where = ".".join(path)
        if key in _STORAGE_KEYS and value:
            raise ValueError(f"its configuration has {where}: its weights are quantised, and sift reads plain ones")
        if key in _REFUSED and value:
            raise ValueError(f"its configuration has {where}, which asks for more than a model")
        if key in _MODEL_KEYS and isinstance(value, str) and not _NAME.fullmatch(value):
            raise ValueError(f"its configuration has {where} = {value[:60]!r}, which is no name of a model")
        if key in _DROPPED:
            raise ValueError(f"its configuration has {where}, which belongs to one machine")
        if key == "dtype" and not isinstance(value, int):
            raise ValueError(f"its configuration has {where}; sift computes in float32")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"its configuration has {where} = {value}, which is not JSON")
        if isinstance(value, int) and not -(2**31) <= value < 2**31:
            raise ValueError(f"its configuration has {where} = {value:.3e}, which is too large")
        if _ROTATED.search(key) and isinstance(value, int | float) and value > _MOST_ROTATED:
            raise ValueError(f"its configuration has {where} = {value}, which is no part of a head")
        if key == "depths" and isinstance(value, list):
            value = sum(item for item in value if isinstance(item, int))
        if isinstance(value, int) and "id" not in key and any(value > _MOST[one] for one in _MOST if one.search(key)):
            raise ValueError(f"its configuration has {where} = {value}, which is too many")
    if len(json.dumps(config)) > _MAX_LENGTH:
        raise ValueError(f"its configuration is longer than {_MAX_LENGTH:,} characters")


def _without(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _without(item)
            for key, item in value.items()
            # A vocabulary may have a word "dtype"; its value is a number then.
            if key not in _DROPPED
            and not (key == "dtype" and not isinstance(item, int))
            and not (key in _STORAGE_KEYS and _is_only_sparse(item))
        }
    return [_without(item) for item in value] if isinstance(value, list | tuple) else value


def _is_only_sparse(storage: Any) -> bool:
    """Whether compressed-tensors says of weights that they are sparse and no more: they are read as plain ones."""
    if not isinstance(storage, Mapping) or storage.get("quant_method") != "compressed-tensors":
        return False
    sparsity = storage.get("sparsity_config")
    return (
        isinstance(sparsity, Mapping)
        and sparsity.get("format") in _SPARSE_FORMATS
        and storage.get("format", "dense") in _SPARSE_FORMATS
        and not any(item for key, item in storage.items() if key not in _SPARSE_KEYS)
    )


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if len(path) > _MAX_DEPTH:
        raise ValueError("its configuration is nested too deeply")
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"its configuration has the key {key!r:.40}, which is not a string")
            yield from _walk(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, (*path, str(index)))
    elif not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"its configuration has a {type(value).__name__}, which is not JSON")
