"""A report as GitHub Actions shows it: annotations of files, and a summary of the job.

https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands has the syntax.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from pathlib import Path

from sift_cli.budgets.report import CheckReport
from sift_cli.core.text import printable

#: GitHub takes a MiB from one step.
MOST_BYTES = 1_000_000


def annotate(report: CheckReport, workspace: Path) -> Iterator[str]:
    """A command ``::error`` for each budget that does not hold.

    Args:
        report: The report.
        workspace: The root of the checked-out repository, from which GitHub counts paths.
    """
    for file, row in report.rows():
        if row.verdict != "held":
            path = os.path.relpath(file.path.absolute(), workspace.absolute())
            properties = f"file={_property(path)},title={_property(f'sift check: {row.budget}')}"
            yield f"::error {properties}::{_data(f'{file.path}: {row.budget}: {row.sentence()}')}"


def summary(report: CheckReport) -> str:
    """The report as Markdown."""
    mark = {"held": "✅ held", "broken": "❌ broken", "error": "⚠️ not measured"}
    lines = [
        f"### sift check: {report.summary()}",
        "",
        "| file | budget | measured | allowed | verdict |",
        "|---|---|---:|---:|---|",
    ]
    size = 0
    for number, (file, row) in enumerate(report.rows()):
        measured, allowed = row.numbers()
        said = mark[row.verdict] + (f": {row.why}" if row.why and row.verdict != "held" else "")
        lines.append(f"| {' | '.join(map(_cell, (str(file.path), row.budget, measured, allowed, said)))} |")
        size += len(lines[-1].encode()) + 1
        if size > MOST_BYTES:
            lines[-1] = f"\nand {sum(1 for _ in report.rows()) - number:,} more"
            break
    return "\n".join(lines) + "\n"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    """Text that Markdown takes for nothing else: no cell, line, link, emphasis or tag begins in it."""
    return "".join(f"&#{ord(c)};" if c in "|`*_[]\\~" else c for c in html.escape(printable(text)))
