"""``sift.toml``, or ``[tool.sift]`` in ``pyproject.toml``: which files have which budgets.

::

    baseline = "sift-baseline.json"
    tolerance = "+2%"

    [[check]]
    paths = ["exports/*.onnx"]
    max-size = "20 MB"
    min-sparsity = 0.9

Paths are relative to the file. Where several tables are for one file, the later one wins, key by key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from sift_cli.budgets import budget
from sift_cli.budgets.units import shown
from sift_cli.errors import ConfigError

NAME, SHARED = "sift.toml", "pyproject.toml"
MOST_BYTES = 2**20
_OF_A_TABLE = ("paths", "allow-empty")
_TOP = ("baseline", "tolerance", "check")


@dataclass(frozen=True)
class Table:
    """One ``[[check]]``.

    Attributes:
        at: What a message calls it.
        patterns: Paths and globs.
        settings: Values for :class:`~sift_cli.budgets.budget.Budget`.
        allow_empty: Whether a pattern may match nothing.
    """

    at: str
    patterns: tuple[str, ...]
    settings: Mapping[str, Any]
    allow_empty: bool = False


@dataclass(frozen=True)
class Config:
    """A configuration.

    Attributes:
        path: Its file; None where there is none.
        tables: In its order.
        baseline: File of saved figures.
        tolerance: Of the figures, for tables that say nothing of it.
    """

    path: Path | None = None
    tables: tuple[Table, ...] = ()
    baseline: Path | None = None
    tolerance: Mapping[str, Fraction] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.path.parent if self.path is not None else Path()


def find(folder: Path) -> Config:
    """The nearest configuration from ``folder`` upwards; of two in one folder ``sift.toml``. Empty where there is none.

    Raises:
        ConfigError: It is no TOML, a key is unknown, or a value is none that it can have.
    """
    for parent in (folder, *folder.absolute().parents):
        if (parent / NAME).is_file():
            return load(parent / NAME)
        shared = parent / SHARED
        if shared.is_file() and (found := load(shared)) != Config(shared):
            return found
    return Config()


def load(path: Path) -> Config:
    """The configuration in a file; of ``pyproject.toml`` what is under ``tool.sift``.

    Raises:
        ConfigError: See :func:`find`; also a file that cannot be read.
    """
    document = _toml(path)
    name = str(path)
    if path.name == SHARED:
        name = f"{path} [tool.sift]"
        tool = document.get("tool", {})
        document = tool.get("sift", {}) if isinstance(tool, dict) else {}
        if not isinstance(document, dict):
            raise ConfigError(f"{name}: it is no table")
    budget.known(document, _TOP, name)
    tables = document.get("check", [])
    if isinstance(tables, dict):  # [check] where there is but one
        tables = [tables]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{name}: check: {shown(tables)} is no table", hint='write [[check]] and paths = ["*.onnx"]')
    baseline = document.get("baseline")
    tolerance = document.get("tolerance")
    return Config(
        path,
        tuple(_table(table, f"{name}, check {number}", path.parent) for number, table in enumerate(tables, 1)),
        None if baseline is None else path.parent / budget.text(baseline, f"{name}: baseline"),
        {} if tolerance is None else budget.parse_tolerances(tolerance, f"{name}: tolerance"),
    )


def _table(table: Mapping[str, Any], at: str, folder: Path) -> Table:
    budget.known(table, (*_OF_A_TABLE, *budget.KEYS), at)
    patterns, empty = table.get("paths"), table.get("allow-empty", False)
    if isinstance(patterns, str):
        patterns = [patterns]
    if not isinstance(patterns, list) or not patterns:
        raise ConfigError(f"{at}: it has no paths", hint='say which files it is for: paths = ["exports/*.onnx"]')
    if not isinstance(empty, bool):
        raise ConfigError(f"{at}: allow-empty: {shown(empty)} is neither true nor false")
    settings = {key: value for key, value in table.items() if key not in _OF_A_TABLE}
    return Table(
        at,
        tuple(budget.text(pattern, f"{at}: paths") for pattern in patterns),
        budget.read(settings, folder, at),
        empty,
    )


def _toml(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        raise ConfigError(f"cannot read {path}: it is no regular file")
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    if len(raw) > MOST_BYTES:
        raise ConfigError(f"{path} is larger than {MOST_BYTES >> 20} MiB, which no configuration is")
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no TOML: it is not UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path} is no TOML that can be read: it is nested too deep") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
