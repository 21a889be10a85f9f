"""Plug-ins by folder: a plug-in's name is its file name, and the folder listing is the table of contents."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType


@functools.cache
def discover(package: str) -> dict[str, ModuleType]:
    """Import every public module of ``package`` and return them by name, sorted.

    A name that begins with an underscore is not a plug-in. Importing is the only registration there is, so adding a
    file is all it takes to add a plug-in.
    """
    return {name: importlib.import_module(f"{package}.{name}") for name in names(package)}


@functools.cache
def names(package: str) -> tuple[str, ...]:
    """The plug-ins' names alone, without importing them or a package that they are in (for help texts, completion)."""
    top, *below = package.split(".")
    spec = importlib.util.find_spec(top)
    folders = [Path(folder, *below) for folder in (spec and spec.submodule_search_locations) or ()]
    return tuple(sorted(m.name for m in pkgutil.iter_modules(map(str, folders)) if not m.name.startswith("_")))
