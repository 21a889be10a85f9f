"""Plug-ins by folder: a plug-in's name is its file name, and the folder listing is the table of contents."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType


@functools.cache
def discover(package: str) -> dict[str, ModuleType]:
    """Import every public module of ``package`` and return them by name, sorted.

    A name that begins with an underscore is not a plug-in. Importing is the only registration there is, so adding a
    file is all it takes to add a plug-in.
    """
    folder = importlib.import_module(package)
    return {name: importlib.import_module(f"{package}.{name}") for name in names(folder.__name__)}


@functools.cache
def names(package: str) -> tuple[str, ...]:
    """The plug-ins' names alone, without importing them (for help texts and completion)."""
    folder = importlib.import_module(package)
    return tuple(sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_")))
