"""Which files are checked, and the budget of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sift_cli.budgets.budget import Budget, text
from sift_cli.budgets.config import Config
from sift_cli.budgets.units import shown
from sift_cli.errors import ConfigError

#: A pattern that matches more is a mistake: ``**`` in a home folder.
MOST_FILES = 10_000
#: With more, one pattern can be looked for in every way that so many folders can be told apart.
MOST_STARS = 4


def select(paths: Sequence[str | Path], config: Config, options: Mapping[str, Any]) -> dict[Path, Budget]:
    """File, or folder of a model → its budget.

    Args:
        paths: Paths and globs from here; where there are none, those of the configuration are checked.
        config: The configuration.
        options: Values of :func:`sift_cli.budgets.budget.read`, which win over those of the configuration.

    Raises:
        ConfigError: Nothing is to be checked, or a pattern matches nothing.
    """
    start = Budget(tolerance=config.tolerance)
    given: dict[str, Path] = {}
    for pattern in paths:
        for path in _matching(text(os.fspath(pattern), "PATH"), Path(), ""):
            given.setdefault(os.path.realpath(path), path)
    found: dict[str, tuple[Path, Budget]] = {key: (path, start) for key, path in given.items()}
    for table in config.tables:
        for pattern in table.patterns:
            # Where files are named, tables say what their budgets are, not which ones there have to be.
            allow_empty = table.allow_empty or bool(paths)
            for path in _matching(pattern, config.folder, f"{table.at}: ", allow_empty=allow_empty):
                key = os.path.realpath(path)
                if key in given or not paths:
                    shown_as, before = found.get(key, (Path(os.path.relpath(path)), start))
                    found[key] = shown_as, before | table.settings
    if not found and not any(table.allow_empty for table in config.tables):
        raise ConfigError(
            "there is nothing to check: no PATH is given, and no sift.toml or [tool.sift] has one",
            hint="sift check model.onnx --max-size 20MB",
        )
    return {path: budget | options for path, budget in found.values()}


def _matching(pattern: str, folder: Path, at: str, *, allow_empty: bool = False) -> Iterator[Path]:
    """Paths that a pattern stands for, sorted. One without a wildcard stands for a file even where that is missing.

    Raises:
        ConfigError: A pattern matches nothing, or too much; or it is none.
    """
    if os.path.lexists(folder / pattern) or not (allow_empty or set(pattern) & set("*?[")):
        yield folder / pattern  # also where its name has a bracket in it
        return
    simple = re.sub(r"(\*\*/)+", "**/", pattern)
    if simple.count("**") > MOST_STARS:
        raise ConfigError(f"{at}{shown(pattern)} has ** more than {MOST_STARS} times")
    anchor = Path(simple).anchor
    try:
        found = list(islice((Path(anchor) if anchor else folder).glob(simple.removeprefix(anchor)), MOST_FILES + 1))
    except (ValueError, NotImplementedError, OSError, RecursionError, re.error) as error:
        raise ConfigError(f"{at}{shown(pattern)} is no pattern of paths: {error}") from None
    if len(found) > MOST_FILES:
        raise ConfigError(f"{at}{shown(pattern)} matches more than {MOST_FILES:,} paths", hint="narrow it down")
    if not found and not allow_empty:
        hint = "write allow-empty = true if that is as it should be" if at else None
        raise ConfigError(f"{at}nothing matches {shown(pattern)}", hint=hint)
    yield from sorted(found)
