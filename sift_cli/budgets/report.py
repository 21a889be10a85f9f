"""What a check found: for each file a row for each budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sift_cli.budgets.units import count_text
from sift_cli.errors import SiftError

SCHEMA = "sift.check/1"
Verdict = Literal["held", "broken", "error"]


@dataclass(frozen=True)
class Row:
    """One budget of one file.

    Attributes:
        budget: "max-size", "baseline size", ….
        verdict: "error" where it could not be measured.
        measured, allowed: Numbers; None where there are none.
        unit: "bytes", "FLOPs", "MACs", "parameters", "weights", "share" or "difference".
        why: A sentence where the numbers do not say it all.
    """

    budget: str
    verdict: Verdict
    measured: int | float | None = None
    allowed: int | float | None = None
    unit: str = ""
    why: str | None = None

    def numbers(self) -> tuple[str, str]:
        """Measured and allowed for people."""
        return self._text(self.measured), self._text(self.allowed)

    def sentence(self) -> str:
        """What there is to say of it where it is not held."""
        measured, allowed = self.numbers()
        if self.measured is None:
            return self.why or self.verdict
        return f"{measured}, and allowed is {allowed}" + (f": {self.why}" if self.why else "")

    def _text(self, value: float | None) -> str:
        if value is None:
            return "–"
        if isinstance(value, int):
            return count_text(value, self.unit)
        return f"{value:.9g}" if self.unit == "share" else f"{value:.3g}"

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class FileReport:
    """One file.

    Attributes:
        path: The file, or the folder of a model.
        rows: Its budgets.
        figures: What was measured of it for a baseline.
        error: What kept it from being read.
    """

    path: Path
    rows: tuple[Row, ...]
    figures: dict[str, int] = field(default_factory=dict)
    error: SiftError | None = None

    def to_json(self) -> dict[str, Any]:
        error = self.error
        return {
            "path": str(self.path),
            "error": error and {"error": type(error).__name__, "message": error.message, "hint": error.hint},
            "figures": self.figures,
            "budgets": [row.to_json() for row in self.rows],
        }


@dataclass(frozen=True)
class CheckReport:
    """All files.

    Attributes:
        files: In the order in which they were named, those that only a baseline has at the end.
        config, baseline: The files that were read; None without.
        updated: Whether the baseline was written.
    """

    files: tuple[FileReport, ...]
    config: Path | None = None
    baseline: Path | None = None
    updated: bool = False

    def rows(self) -> Iterator[tuple[FileReport, Row]]:
        for file in self.files:
            for row in file.rows:
                yield file, row

    def count(self, verdict: Verdict) -> int:
        return sum(row.verdict == verdict for _, row in self.rows())

    @property
    def verdict(self) -> Verdict:
        """The worst there is: what could not be measured says nothing, not even that a budget is broken."""
        return "error" if self.count("error") else "broken" if self.count("broken") else "held"

    @property
    def exit_code(self) -> int:
        """0 where all budgets held, 3 where a file could not be read or measured, 6 where a budget is broken."""
        return {"held": 0, "broken": 6, "error": 3}[self.verdict]

    def summary(self) -> str:
        rows, files = sum(1 for _ in self.rows()), len(self.files)
        said = f"{self.count('held')} of {rows} budget{'s' * (rows != 1)} held in {files} file{'s' * (files != 1)}"
        broken, errors = self.count("broken"), self.count("error")
        return said + f", {broken} broken" * bool(broken) + f", {errors} could not be measured" * bool(errors)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "config": None if self.config is None else str(self.config),
            "baseline": None if self.baseline is None else str(self.baseline),
            "updated": self.updated,
            "files": [file.to_json() for file in self.files],
        }
