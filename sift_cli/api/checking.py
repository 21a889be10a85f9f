"""Files, held to their budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sift_cli.api.counting import flops
from sift_cli.core.counts import FlopReport
from sift_cli.errors import ConfigError

if TYPE_CHECKING:
    from sift_cli.budgets import CheckReport


def check(
    paths: Sequence[str | Path] = (),
    *,
    options: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    baseline: str | Path | None = None,
    update_baseline: bool = False,
    allow_pickle: bool = False,
) -> CheckReport:
    """Hold files to their budgets: size, FLOPs, sparsity, the cost or the outputs of another file, saved figures.

    Args:
        paths: Files and globs; without any, those of the configuration.
        options: Budgets for all of them, by the keys of a configuration ("max-size"), which they win over.
        config: ``sift.toml`` or ``pyproject.toml``; None takes the nearest one from here upwards.
        baseline: File of saved figures; None takes the configuration's.
        update_baseline: Save the figures there instead of comparing with it.
        allow_pickle: Load pickles that run code.

    Raises:
        ConfigError: The configuration, an option or the baseline is wrong, or there is nothing to check.
        OutputError: The baseline cannot be written.
    """
    from sift_cli.budgets import budget
    from sift_cli.budgets import config as configs
    from sift_cli.budgets.run import run as check_all
    from sift_cli.budgets.select import select

    def count(source: str, how: budget.Budget) -> FlopReport:
        arch = how.arch if Path(source).exists() else None
        return flops(source, arch=arch, input_shape=how.input, dims=how.dims or None, allow_pickle=allow_pickle)

    found = configs.find(Path()) if config is None else configs.load(Path(config))
    saved = found.baseline if baseline is None else Path(baseline)
    if update_baseline and saved is None:
        raise ConfigError("there is no baseline to update", hint="name one: --baseline sift-baseline.json")
    if saved is None and "tolerance" in (options or {}):
        raise ConfigError("there is no baseline that a tolerance is for", hint="--baseline sift-baseline.json")
    selected = select(paths, found, budget.read(options or {}, Path(), ""))
    return check_all(
        selected, count, config=found.path, baseline=saved, update=update_baseline,
        all_selected=not paths, allow_pickle=allow_pickle,
    )  # fmt: skip
