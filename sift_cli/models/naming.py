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

    Nothing is imported for a name in the fingerprint table, nor for a factory.

    Raises:
        UnknownArchitecture: It is neither.
        MissingExtra: The source of a name that is not in the table is not installed.
    """
    source, _, name = text.partition(":")
    if source not in registry.names(_SOURCES):
        source, name = "factory", text
    architecture = Architecture(source, name)
    if str(architecture) in fingerprints.table().names or source_of(architecture).has(name):
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
    wanted = text.rpartition(":")[2]
    near = [name for name in known if name.partition(":")[2] == wanted]
    near = near or difflib.get_close_matches(text, known, n=3)
    near = near or [name for name in known if name.partition(":")[2] in difflib.get_close_matches(wanted, known, n=3)]
    hint = "write it as torchvision:resnet18 or package.module:factory"
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    return UnknownArchitecture(f"there is no architecture {text}", hint=hint, nearest=near)
