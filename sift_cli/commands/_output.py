"""The one sink of the command line. Data goes to stdout, for people as tables or for programs as one JSON document;
what is said about the work goes to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sift_cli.errors import SiftError, VerificationFailed

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from sift_cli.api import Written
    from sift_cli.core.certificate import Certificate

_json = False


def use_json(wanted: bool) -> None:
    """Make this invocation print JSON."""
    global _json
    _json = wanted


def wants_json() -> bool:
    return _json


def data(document: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    # NaN and infinity are no JSON; a measured error that is one of them becomes a string.
    print(json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False))


def text(line: str = "") -> None:
    """A line of data for people."""
    print(_printable(line))


def note(line: str) -> None:
    """A line about the work, on stderr; nothing under ``--json``."""
    if not _json:
        _console(stderr=True).print(line, highlight=False, markup=False)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr while the block runs; nothing where stderr is no terminal."""
    console = terminal()
    if console is None:
        yield
        return
    with console.status(what):
        yield


def terminal() -> Console | None:
    """stderr where what is said about the work may move; None under ``--json`` and where stderr is no terminal."""
    console = _console(stderr=True)
    return console if console.is_terminal and not _json else None


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> None:
    """A table on stdout.

    Args:
        title: Its title, "" for none.
        columns: Headings.
        rows: Cells; integers get thousands separators.
        left: How many of the first columns are text, aligned to the left.
    """
    from rich import box
    from rich.table import Table

    sheet = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        sheet.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        sheet.add_row(*(_cell(value) for value in row))
    _console().print(sheet, markup=False)


def certificate(measured: Certificate) -> None:
    """The claims of a certificate as a table."""
    table(
        "certificate",
        ["claim", "measured by", "verdict", "measured", "has to be"],
        ([c.name, c.counter, c.verdict, _short(c.after), c.bound] for c in measured.claims),
        left=5,
    )


def written(result: Written, output: Path) -> None:
    """A file that was written, with its certificate."""
    if _json:
        tuned = {"tuned": [layer.to_json() for layer in result.tuned]} if result.tuned else {}
        data({**result.certificate.to_json(), **tuned, "output": str(output), "bytes": result.bytes})
        return
    if result.tuned:
        rows = [
            [layer.layer, len(layer.weights), *(f"{1e3 * s:.3f}" for s in (layer.dense, layer.usual, layer.best)),
             layer.decision]
            for layer in result.tuned
        ]  # fmt: skip
        table("tuned", ["layer", "weights", "dense ms", "usual ms", "best ms", "decision"], rows)
    certificate(result.certificate)
    text(f"wrote {output} ({size(result.bytes)})")


def error(problem: SiftError) -> None:
    """The sentence and the hint on stderr; under ``--json`` the facts on stdout too."""
    print(f"error: {_printable(problem.message)}", file=sys.stderr)
    if problem.hint:
        print(f"hint: {_printable(problem.hint)}", file=sys.stderr)
    measured = problem.certificate if isinstance(problem, VerificationFailed) else None
    if _json:
        facts = measured.to_json() if measured is not None else {"schema": "sift.error/1"}
        data(
            {
                **facts,
                "error": type(problem).__name__,
                "message": problem.message,
                "hint": problem.hint,
                "exit_code": problem.exit_code,
                "fields": {key: value for key, value in problem.fields.items() if _is_json(value)},
            }
        )
    elif measured is not None:
        certificate(measured)


def usage_error(message: str, command: str) -> None:
    """One sentence for an option or argument that does not parse."""
    sentence = _printable(message.replace("Value error, ", "").strip().rstrip("."))
    hint = f"{command} --help"
    print(f"error: {sentence}\nhint: {hint}", file=sys.stderr)
    if _json:
        data(
            {
                "schema": "sift.error/1",
                "error": "Usage",
                "message": sentence,
                "hint": hint,
                "exit_code": 2,
                "fields": {},
            }
        )


def size(count: int) -> str:
    """Bytes for people, in powers of ten."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # Off a terminal rich would wrap at 80 columns; a table in a file or a pipe keeps its lines whole.
    return Console(file=stream, width=None if stream.isatty() else 200)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _printable(str(value))


def _printable(line: str) -> str:
    """``line`` with control characters written out: names come from files, and a terminal obeys what it is sent."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else _cell(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
