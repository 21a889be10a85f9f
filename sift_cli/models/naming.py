"""Architectures as they are written on the command line."""

from __future__ import annotations

import difflib
from types import ModuleType

from sift_cli import registry
from sift_cli.core.plan import Architecture
from sift_cli.errors import UnknownArchitecture
from sift_cli.models import fingerprints

_SOURCES = "sift_cli.models.sources"


def parse_architecture(text: str) -> Architecture:
    """Read ``torchvision:resnet18`` (a source and a name) or ``package.module:factory`` (a callable of the user's).

    Nothing is imported for a name in the fingerprint table, nor for a factory. A module with nearly the name of a
    source, and in it a callable with the name of a model, is written ``factory:torchvison:resnet18``.

    Raises:
        UnknownArchitecture: It is neither.
        MissingExtra: The source of a name that is not in the table is not installed.
    """
    source, _, name = text.partition(":")
    if source not in registry.names(_SOURCES):
        if _misspells_a_source(text):
            raise unknown(text)
        source, name = "factory", text
    architecture = Architecture(source, name)
    if hasattr(plugin := source_of(architecture), "resolve"):
        if (found := plugin.resolve(name)) is None:
            raise unknown(text)
        return found
    if str(architecture) in fingerprints.table().names or plugin.has(name):
        return architecture
    raise unknown(text)


def source_of(architecture: Architecture) -> ModuleType:
    """The plug-in that builds it.

    Raises:
        UnknownArchitecture: There is no such source.
    """
    if architecture.source not in registry.names(_SOURCES):
        raise unknown(architecture)
    return registry.discover(_SOURCES)[architecture.source]


def unknown(architecture: Architecture | str) -> UnknownArchitecture:
    """The error for an architecture that no source knows, with the nearest names in its hint."""
    text = str(architecture)
    known = fingerprints.table().names
    near = [name for name in known if _bare(name) == _bare(text)] or difflib.get_close_matches(text, known)
    hint = "write it as torchvision:resnet18 or package.module:factory"
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    return UnknownArchitecture(f"there is no architecture {text}", hint=hint, nearest=near)


def _bare(name: str) -> str:
    """A name without its source."""
    return name.rpartition(":")[2]


def _misspells_a_source(text: str) -> bool:
    """Whether a text that reads as a factory is rather ``torchvison:resnet18``."""
    source, _, name = text.partition(":")
    near = difflib.get_close_matches(source, registry.names(_SOURCES), n=1, cutoff=0.8)
    return any(f"{one}:{name}" in fingerprints.table().names for one in near)
