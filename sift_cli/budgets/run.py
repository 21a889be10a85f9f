"""Check files one after another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from sift_cli.budgets import baseline as saved_figures
from sift_cli.budgets.budget import FIGURES, Budget
from sift_cli.budgets.measure import Count, Figures
from sift_cli.budgets.report import CheckReport, FileReport, Row
from sift_cli.budgets.rows import against, rows, unmeasured
from sift_cli.errors import CheckpointError, ConfigError, ModelError, VerificationFailed


def run(
    selected: Mapping[Path, Budget],
    count: Count,
    *,
    config: Path | None = None,
    baseline: Path | None = None,
    update: bool = False,
    all_selected: bool = True,
    allow_pickle: bool = False,
) -> CheckReport:
    """Check every file, whatever is wrong with the others.

    Args:
        selected: Files and their budgets.
        count: Counts the MACs of a file or an architecture.
        config: Where the budgets are from, for the report.
        baseline: Saved figures to compare with.
        update: Write the figures there and compare nothing. It is not written if a file cannot be read.
        all_selected: Whether a file of the baseline that is not selected is missing, or has only not been asked for.
        allow_pickle: Load pickles that run code.

    Raises:
        ConfigError: The baseline cannot be read, or a file has neither a budget nor a baseline.
        OutputUnwritable: The baseline cannot be written.
    """
    for path, budget in selected.items():
        if not budget.limits and baseline is None:
            raise ConfigError(
                f"there is no budget for {path}", hint="give one: --max-size 20MB; or a table [[check]] in sift.toml"
            )
    before = saved_figures.read(baseline) if baseline is not None and (not update or baseline.exists()) else {}
    names = {path: saved_figures.name(path, baseline) for path in selected} if baseline is not None else {}
    files = []
    for path, budget in selected.items():
        saved = before.get(names[path]) if baseline is not None and not update else None
        files.append(_check(path, budget, count, saved, baseline, update, allow_pickle))
    if baseline is not None and update:
        if any(file.error for file in files):
            return CheckReport(tuple(files), config, baseline)
        kept = {} if all_selected else {name: figures for name, figures in before.items() if _exists(name, baseline)}
        saved_figures.write(baseline, kept | {names[file.path]: file.figures for file in files})
    elif baseline is not None:
        files += _missing(before.keys() - set(names.values()), baseline, all_selected)
    return CheckReport(tuple(files), config, baseline, updated=update)


def _check(
    path: Path,
    budget: Budget,
    count: Count,
    saved: Mapping[str, int] | None,
    baseline: Path | None,
    update: bool,
    allow_pickle: bool,
) -> FileReport:
    try:
        figures = Figures(path, budget, count, allow_pickle=allow_pickle)
    except CheckpointError as error:
        return FileReport(path, (unmeasured("readable", error),), error=error)
    found = list(rows(figures, budget, count))
    if update:
        try:
            return FileReport(path, tuple(found), _all(figures))
        except CheckpointError as error:
            return FileReport(path, (*found, unmeasured("baseline", error)), error=error)
    if saved is not None:
        found += against(figures, saved, budget.tolerance)
    elif baseline is not None:
        found.append(Row("baseline", "broken", why=f"{path} is new: {baseline} does not have it"))
    return FileReport(path, tuple(found))


def _all(figures: Figures) -> dict[str, int]:
    """All figures that can be measured: of a checkpoint whose architecture nobody knows there are no MACs."""
    found = {}
    for figure in FIGURES:
        try:
            found[figure] = getattr(figures, figure)
        except (ModelError, VerificationFailed):
            continue
    return found


def _missing(names: set[str], baseline: Path, all_selected: bool) -> Iterator[FileReport]:
    for name in sorted(names):
        path = saved_figures.place(name, baseline)
        if not _exists(name, baseline):
            why = f"{path} is gone, and {baseline} has it"
        elif all_selected:
            why = f"{path} is in {baseline}, and was not checked"
        else:
            continue
        yield FileReport(path, (Row("baseline", "broken", why=why),))


def _exists(name: str, baseline: Path) -> bool:
    return os.path.exists(baseline.parent / name)
