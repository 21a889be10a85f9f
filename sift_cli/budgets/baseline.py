"""Figures of files, saved to be compared with: JSON, sorted, one figure a line, so that a diff of it can be read."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sift_cli.budgets.budget import FIGURES
from sift_cli.budgets.units import shown
from sift_cli.core.files import atomic
from sift_cli.errors import ConfigError

SCHEMA = "sift.baseline/1"
MOST_BYTES = 2**24
_ANEW = "mend it, or delete it and write it anew with --update-baseline"

Saved = dict[str, dict[str, int]]


def name(path: Path, baseline: Path) -> str:
    """What a file is called in a baseline: its path from there, so that it is the same wherever a check runs."""
    return Path(os.path.relpath(path.absolute(), baseline.absolute().parent)).as_posix()


def place(saved: str, baseline: Path) -> Path:
    """Inverse of :func:`name`, as a path from here."""
    return Path(os.path.relpath(baseline.parent / saved))


def read(path: Path) -> Saved:
    """The figures in a baseline, by :func:`name`.

    Raises:
        ConfigError: It cannot be read, or is none.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"cannot read the baseline {path}: it is no regular file")
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        hint = "--update-baseline writes one" if isinstance(error, FileNotFoundError) else None
        raise ConfigError(f"cannot read the baseline {path}: {error.strerror or error}", hint=hint) from None
    try:
        document = json.loads(raw[:MOST_BYTES], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no baseline: {error}", hint=_ANEW) from None
    if not isinstance(document, dict) or document.keys() != {"schema", "files"}:
        raise ConfigError(f"{path} is no baseline: it is no {SCHEMA} document")
    if document["schema"] != SCHEMA:
        raise ConfigError(f"{path} is no baseline: it is {shown(document['schema'])} and no {SCHEMA}", hint=_ANEW)
    files = document["files"]
    if not isinstance(files, dict):
        raise ConfigError(f"{path} is no baseline: its files are {shown(files)}")
    for file, figures in files.items():
        if (
            not isinstance(figures, dict)
            or not figures
            or not figures.keys() <= set(FIGURES)
            or not all(type(value) is int and 0 <= value < 2**63 for value in figures.values())
            or "\0" in file
        ):
            raise ConfigError(f"{path} is no baseline: of {shown(file)} it says {shown(figures)}")
    return files


def write(path: Path, files: Mapping[str, Mapping[str, int]]) -> None:
    """Write a baseline in one step; the same figures are the same bytes.

    Raises:
        OutputUnwritable: It cannot be written.
    """
    document = {"schema": SCHEMA, "files": files}
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    with atomic(path, force=True) as temporary:
        # A name that is no UTF-8 has halves of characters in Python, which JSON can write as \udcff.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; what both sides of a merge have added is there twice, and one of them would count."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"{shown(twice)} is in it twice")
    return found
