"""Results of :mod:`iso_flop` as tables and plots.

± after a mean is the sample standard deviation over seeds, ± after a difference its standard error, of the differences
between runs of the same seed.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPARSITIES = {"1/2": 0.5, "3/4": 0.75, "9/10": 0.9}
RULES = {"static": "static", "set": "SET", "rigl": "RigL"}
#: Kind and σ → their name.
KINDS: dict[tuple[str, bool | None], str] = {
    ("wide", None): "wide",
    ("parallel", True): "parallel",
    ("parallel", False): "parallel, no σ",
    ("factorized", True): "factorized",
    ("factorized", False): "factorized, no σ",
    ("doped", True): "doped",
    ("doped", False): "doped, no σ",
}

#: One line of the results.
Run = dict[str, Any]
#: The runs of one cell of the grid, by seed.
Runs = dict[int, Run]


@dataclass(frozen=True)
class Mean:
    """A mean over ``count`` seeds, and the sample standard deviation, not a number for one seed."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(self.count)


class Results:
    """The runs of one task."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs: dict[tuple[Any, ...], Runs] = {}
        for one in runs:
            cell = (one["kind"], one["sigma"], one["sparsity"], one["rule"])
            self._runs.setdefault(cell, {})[one["seed"]] = one

    def __getitem__(self, cell: tuple[str, bool | None, str, str]) -> Runs:
        """By kind, σ, sparsity and rule; none where there are none."""
        return self._runs.get(cell, {})

    @property
    def dense(self) -> Runs:
        return self["dense", None, "0", "none"]


def read(path: Path) -> dict[str, Results]:
    """Results by task."""
    runs: dict[str, list[Run]] = {}
    for line in path.read_text().splitlines():
        one = json.loads(line)
        runs.setdefault(one["task"], []).append(one)
    return {task: Results(found) for task, found in runs.items()}


def accuracy(runs: Runs) -> Mean:
    """In percent."""
    return Mean.of([100 * one["accuracy"] for one in runs.values()])


def difference(runs: Runs, others: Runs) -> Mean | None:
    """Of accuracies, in points, over the seeds that both have; None where there is none."""
    seeds = sorted(runs.keys() & others.keys())
    return Mean.of([100 * (runs[s]["accuracy"] - others[s]["accuracy"]) for s in seeds]) if seeds else None


def accuracies(results: Results) -> Iterator[str]:
    """Every cell: accuracy, and difference to the dense model."""
    yield f"| | rule | {' | '.join(f's = {s}' for s in SPARSITIES.values())} |"
    yield "|---|---|---|---|---|"
    yield f"| dense | | {_mean(accuracy(results.dense))} | | |"
    wider = [results["dense", None, s, "none"] for s in SPARSITIES]
    yield f"| dense, as wide as `wide` | | {' | '.join(_against(runs, results) for runs in wider)} |"
    for (kind, sigma), name in KINDS.items():
        for rule, said in RULES.items():
            cells = [results[kind, sigma, s, rule] for s in SPARSITIES]
            if any(cells):
                yield f"| {name} | {said} | {' | '.join(_against(runs, results) for runs in cells)} |"


def flops(results: Results) -> Iterator[str]:
    """FLOPs of the whole training, of the dense model's."""
    yield f"| | {' | '.join(f's = {s}' for s in SPARSITIES.values())} |"
    yield "|---|---|---|---|"
    rows: dict[str, list[tuple[str, bool | None, str]]] = {"dense, as wide as `wide`": [("dense", None, "none")]}
    rows["static and SET, all kinds"] = [(kind, sigma, rule) for kind, sigma in KINDS for rule in ("static", "set")]
    rows |= {f"{name}, RigL": [(kind, sigma, "rigl")] for (kind, sigma), name in KINDS.items() if sigma is not False}
    for name, cells in rows.items():
        spent = [
            [one["flops"] for kind, sigma, rule in cells for one in results[kind, sigma, s, rule].values()]
            for s in SPARSITIES
        ]
        yield f"| {name} | {' | '.join(_range(found) for found in spent)} |"


def contrasts(results: Results) -> Iterator[str]:
    """Rule against rule, and with σ against without, in points."""
    yield f"| | {' | '.join(f's = {s}' for s in SPARSITIES.values())} |"
    yield "|---|---|---|---|"
    for (kind, sigma), name in KINDS.items():
        for rule, other in (("set", "static"), ("rigl", "static"), ("rigl", "set")):
            pairs = [(results[kind, sigma, s, rule], results[kind, sigma, s, other]) for s in SPARSITIES]
            yield from _row(f"{name}: {RULES[rule]} − {RULES[other]}", pairs)
    for (kind, sigma), name in KINDS.items():
        for rule, said in RULES.items():
            pairs = [(results[kind, True, s, rule], results[kind, False, s, rule]) for s in SPARSITIES]
            if sigma:
                yield from _row(f"{name}, {said}: with σ − without", pairs)


def growth(results: Results) -> Iterator[str]:
    """Sparsity against sparsity, in points."""
    yield "| | .75 − .5 | .9 − .75 | .9 − .5 |"
    yield "|---|---|---|---|"
    for (kind, sigma), name in KINDS.items():
        for rule, said in RULES.items():
            half, quarter, tenth = (results[kind, sigma, s, rule] for s in SPARSITIES)
            yield from _row(f"{name}, {said}", [(quarter, half), (tenth, quarter), (tenth, half)])


def _row(name: str, pairs: Sequence[tuple[Runs, Runs]]) -> Iterator[str]:
    found = [difference(*pair) for pair in pairs]
    if any(found):
        yield f"| {name} | {' | '.join(map(_difference, found))} |"


#: Name in docs/evidence.md → its lines.
TABLES = {"accuracy": accuracies, "flops": flops, "contrasts": contrasts, "growth": growth}


def _mean(found: Mean) -> str:
    return f"{found.mean:.1f}" + (f" ± {found.deviation:.1f}" if found.count > 1 else "")


def _difference(found: Mean | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:+.1f}".replace("-", "−") + (f" ± {found.error:.1f}" if found.count > 1 else "")


def _against(runs: Runs, results: Results) -> str:
    if not runs:
        return ""
    return f"{_mean(accuracy(runs))} ({_difference(difference(runs, results.dense))})"


def _range(found: Sequence[float]) -> str:
    if not found:
        return ""
    low, high = f"{min(found):.3f}", f"{max(found):.3f}"
    return low if low == high else f"{low} to {high}"
