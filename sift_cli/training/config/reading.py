"""A YAML file from anywhere: plain values, or one sentence about what is wrong with it.

PyYAML's safe loader makes nothing but plain values, yet a file of a few lines can ask it for more of them than fit into
memory (aliases in lists of aliases, merged), can name one key twice and have the first forgotten, and can stop it with
errors of many kinds. So sizes are looked at before anything is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sift_cli.errors import PlanError, Unreadable

MOST_BYTES = 1 << 18
MOST_VALUES = 50_000

#: What the loader raises on text it cannot make a value of: ``!!int ""``, ``2020-99-99``, brackets a thousand deep.
_ERRORS = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def read(path: Path) -> Any:
    """The values of a YAML file: mappings, lists, texts, numbers, bools and None.

    Raises:
        Unreadable: There is no such file, or the system refuses it.
        PlanError: It is no YAML, or asks for too much.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from None
    if len(raw) > MOST_BYTES:
        raise PlanError(f"{path} is larger than {MOST_BYTES >> 10} KiB, which no configuration is")
    try:
        loader = _Loader(raw)
        node = loader.get_single_node()
        if node is None:
            raise PlanError(f"{path} is empty")
        _size(node, {}, path)
        return loader.construct_document(node)
    except _ERRORS as error:
        raise PlanError(f"{path} is no YAML: {_why(error)}") from None


class _Loader(yaml.SafeLoader):
    """The safe loader, which besides does not accept a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value[:40]!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, sizes: dict[int, int], path: Path) -> int:
    """Values that ``node`` stands for, with each alias written out.

    Raises:
        PlanError: There are too many, or it contains itself.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    known = sizes.get(id(node))
    if known is None:
        sizes[id(node)] = 0  # and what comes upon itself while it is measured is found by this
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known = sizes[id(node)] = 1 + sum(_size(part, sizes, path) for part in parts)
    if not 0 < known <= MOST_VALUES:
        what = "contains itself" if not known else f"stands for more than {MOST_VALUES:,} values"
        raise PlanError(f"{path} has a list or mapping, at line {node.start_mark.line + 1}, that {what}")
    return known


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    mark = getattr(error, "problem_mark", None)
    why = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{why} at line {mark.line + 1}" if mark else why
