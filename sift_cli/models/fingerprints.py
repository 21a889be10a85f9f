"""Recognising an architecture from the names and shapes of its tensors, without building anything.

A layout is a set of (tensor name, shape). The shipped table ``fingerprints.json`` holds the hash of every known
architecture's layout with the number of classes taken out of it: the axes whose size is the number of classes (found by
building each architecture twice) are hashed as 0 and listed beside the hash, so the number is read from the file.
Looking up takes two steps: the hash of the names gives a few candidates, each of which says which axes to take out.

``num_batches_tracked`` is left out of every hash, as old files lack it.

Many architectures share a layout (EfficientNets with two kinds of padding, one network at two image sizes), so a layout
lists its models in groups: models of one group were measured to compute the same function of the same weights at the
same input size, and any of them will do; between groups only the user can decide.

The table is made by ``scripts/make_fingerprints.py``.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from sift_cli.core.plan import Architecture

SCHEMA = "sift.fingerprints/1"
Shapes = Mapping[str, tuple[int, ...]]
Axis = tuple[str, int]


@dataclass(frozen=True)
class Layout:
    """One line of the table.

    Attributes:
        names: Hash of the tensors' names.
        shapes: Hash of names and shapes, the class axes taken out.
        classes: The axes whose size is the number of classes, as (tensor, axis).
        groups: Architectures with this layout; those of one group compute the same function.
        headless: The layout is that of the architectures without their classifier.
    """

    names: str
    shapes: str
    classes: tuple[Axis, ...]
    groups: tuple[tuple[Architecture, ...], ...]
    headless: bool = False

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"names": self.names, "shapes": self.shapes}
        if self.classes:
            data["classes"] = [list(axis) for axis in self.classes]
        if self.headless:
            data["headless"] = True
        data["groups"] = [[_written(member) for member in group] for group in self.groups]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        return cls(
            data["names"],
            data["shapes"],
            tuple((name, axis) for name, axis in data.get("classes", ())),
            tuple(tuple(_read(member) for member in group) for group in data["groups"]),
            data.get("headless", False),
        )


@dataclass(frozen=True)
class Match:
    """A layout that fits, and the number of classes read from the file (None where the layout has none)."""

    layout: Layout
    num_classes: int | None


@dataclass(frozen=True)
class Table:
    """All known layouts, and the versions of the libraries that they were taken from."""

    versions: Mapping[str, str]
    layouts: tuple[Layout, ...]
    _by_names: dict[str, list[Layout]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for layout in self.layouts:
            self._by_names.setdefault(layout.names, []).append(layout)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Every architecture in the table, sorted."""
        return tuple(sorted({str(member) for layout in self.layouts for group in layout.groups for member in group}))

    def same_names(self, names: Iterable[str]) -> list[Layout]:
        """Layouts with these tensor names, whatever their shapes."""
        return self._by_names.get(hash_names(names), [])

    def match(self, shapes: Shapes) -> list[Match]:
        """Every layout that fits, which is one, or none, or one with a classifier and one without."""
        found = []
        for layout in self.same_names(shapes):
            sizes = {shapes[name][axis] for name, axis in layout.classes if axis < len(shapes[name])}
            if len(sizes) <= 1 and hash_shapes(shapes, layout.classes) == layout.shapes:
                found.append(Match(layout, next(iter(sizes), None)))
        return found

    def to_json(self) -> dict[str, Any]:
        layouts = [layout.to_json() for layout in self.layouts]
        return {"schema": SCHEMA, "versions": dict(self.versions), "layouts": layouts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Table:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: Another schema.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"not a {SCHEMA} document")
        return cls(data["versions"], tuple(Layout.from_json(layout) for layout in data["layouts"]))


@functools.cache
def table() -> Table:
    """The table that comes with sift."""
    return Table.from_json(json.loads(resources.files(__package__).joinpath("fingerprints.json").read_bytes()))


def hash_names(names: Iterable[str]) -> str:
    """Hash of the tensors' names, in any order."""
    return _digest(sorted(name for name in names if counts(name)))


def hash_shapes(shapes: Shapes, classes: Iterable[Axis] = ()) -> str:
    """Hash of the tensors' names and shapes, in any order, with 0 for the size of every class axis."""
    free = set(classes)
    lines = []
    for name in sorted(name for name in shapes if counts(name)):
        sizes = (0 if (name, axis) in free else size for axis, size in enumerate(shapes[name]))
        lines.append(f"{name} {','.join(map(str, sizes))}")
    return _digest(lines)


def counts(name: str) -> bool:
    """Whether a tensor is part of the layout."""
    return name.rpartition(".")[2] != "num_batches_tracked"


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _written(member: Architecture) -> str | list[Any]:
    return [str(member), dict(member.kwargs)] if member.kwargs else str(member)


def _read(member: str | list[Any]) -> Architecture:
    text, kwargs = (member, {}) if isinstance(member, str) else member
    source, _, name = text.partition(":")
    return Architecture(source, name, kwargs)
