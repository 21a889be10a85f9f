"""The one sink of the command line. Data goes to stdout, for people as tables or for programs as one JSON document;
what is said about the work goes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from sift_cli.core.text import printable
from sift_cli.errors import OutputUnwritable, SiftError, VerificationFailed

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from sift_cli.api import Written
    from sift_cli.core.certificate import Certificate

#: What a shell reports of a program that writes to a pipe whose reader has left: 128 + SIGPIPE.
_READER_LEFT = 141

_json = _quiet = False


def begin(*, as_json: bool) -> None:
    """Begin an invocation, which prints JSON or not, and is not quiet until it is told to be."""
    global _json, _quiet
    _json, _quiet = as_json, False


def be_quiet(wanted: bool) -> None:
    """Say nothing more about the work, if that is wanted."""
    global _quiet
    _quiet = _quiet or wanted


def wants_json() -> bool:
    return _json


def data(document: dict[str, Any]) -> None:
    """One JSON document on stdout, in ASCII: a name that is no UTF-8 keeps its bytes, as Python's surrogates."""
    # NaN and infinity are no JSON; a measured error that is one of them becomes a string.
    print_out(json.dumps(_finite(document), indent=2, allow_nan=False))


def text(line: str = "") -> None:
    """A line of data for people."""
    print_out(printable(line))


def note(line: str) -> None:
    """A line about the work, on stderr; nothing under ``--json`` and ``--quiet``."""
    if not (_json or _quiet):
        _write(printable(line), sys.stderr)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr while the block runs; nothing where :func:`terminal` is None."""
    console = terminal()
    if console is None:
        yield
        return
    with console.status(printable(what)):
        yield


def terminal() -> Console | None:
    """stderr where what is said about the work may move; None under ``--json`` and ``--quiet``, and where stderr is no
    terminal or one that cannot move its cursor."""
    if _json or _quiet or not sys.stderr.isatty():
        return None
    console = _console(sys.stderr)
    return None if console.is_dumb_terminal else console


def print_out(document: str) -> None:
    """Lines of data as they are: a document of some format, or a table."""
    _write(document, sys.stdout)


def page(context: typer.Context) -> None:
    """The help of a command."""
    from typer import rich_utils

    if os.environ.get("NO_COLOR"):
        rich_utils.COLOR_SYSTEM = None  # it would leave out colours and print bold
    with _writing(sys.stdout):
        context.get_help()


def _write(line: str, stream: TextIO) -> None:
    encoding = stream.encoding or "utf-8"
    with _writing(stream):
        # Now and not when the interpreter ends, which could do nothing but print a traceback.
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


@contextmanager
def _writing(stream: TextIO) -> Iterator[None]:
    """Write to stdout or stderr; what cannot be written any more goes nowhere.

    Raises:
        SystemExit: Nobody reads: 141, also where rich would end with 1.
        OutputUnwritable: stdout cannot be written. Of stderr there is nowhere to say it.
    """
    try:
        yield
    except (OSError, SystemExit) as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError | SystemExit):
            raise SystemExit(_READER_LEFT) from None
        if stream is sys.stdout:
            raise OutputUnwritable("the standard output", error.strerror or str(error)) from None


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
    console = _console(sys.stdout)
    with _writing(sys.stdout), console.capture() as printed:
        console.print(sheet, markup=False)
    print_out(printed.get().removesuffix("\n"))


def certificate(measured: Certificate) -> None:
    """The claims of a certificate as a table."""
    table(
        "certificate",
        ["claim", "measured by", "verdict", "measured", "has to be"],
        ([c.name, c.counter, c.verdict, _short(c.after), c.bound] for c in measured.claims),
        left=5,
    )


def written(command: str, result: Written, **more: Any) -> None:
    """What a command wrote, with its certificate; under ``--json`` with ``more`` about it."""
    if _json:
        data(
            {
                "schema": f"sift.{command}/1",
                "output": str(result.path),
                "bytes": result.bytes,
                "certificate": result.certificate.to_json(),
                **more,
            }
        )
        return
    if result.tuned:
        rows = [
            [layer.layer, len(layer.weights), *(f"{1e3 * s:.3f}" for s in (layer.dense, layer.usual, layer.best)),
             layer.decision]
            for layer in result.tuned
        ]  # fmt: skip
        table("tuned", ["layer", "weights", "dense ms", "usual ms", "best ms", "decision"], rows)
    certificate(result.certificate)
    text(f"wrote {result.path} ({size(result.bytes)})")


def error(problem: SiftError) -> None:
    """The sentence and the hint on stderr; under ``--json`` the facts on stdout too."""
    _write(f"error: {printable(problem.message)}", sys.stderr)
    if problem.hint:
        _write(f"hint: {printable(problem.hint)}", sys.stderr)
    if _json:
        data(
            {
                "schema": "sift.error/1",
                "error": type(problem).__name__,
                "message": problem.message,
                "hint": problem.hint,
                "exit_code": problem.exit_code,
                "fields": {name: _fact(value) for name, value in problem.fields.items()},
            }
        )
    elif isinstance(problem, VerificationFailed) and problem.certificate is not None:
        certificate(problem.certificate)


def size(count: int) -> str:
    """Bytes for people, in powers of ten."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # Off a terminal rich would wrap at 80 columns; a table in a file or a pipe keeps its lines whole. Under NO_COLOR it
    # would still print bold.
    return Console(
        file=stream,
        width=None if stream.isatty() else 200,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


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


def _fact(value: Any) -> Any:
    return value.to_json() if hasattr(value, "to_json") else value
