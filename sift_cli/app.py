"""The command line: a table of contents, and the one place where an error becomes a sentence."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sift_cli import __version__
from sift_cli.commands import (
    _output,
    analyze,
    bench,
    check,
    convert,
    demo,
    densify,
    diff,
    export,
    flops,
    inspect,
    run,
    train,
    transform,
)
from sift_cli.commands._options import Help, Json, Quiet
from sift_cli.errors import Interrupted, OutputUnwritable, SiftError, UsageError

#: Typer has it, and does not export it.
_Usage: Any = typer.BadParameter.__bases__[0]
#: Typer puts into the sentence what may have been meant; it is a hint.
_MEANT = re.compile(r" \(?(?:Did you mean|Possible options:) (.+?)[?)]+$")


class SiftGroup(TyperGroup):
    """The one place where an error becomes a sentence with its hint, and an exit code. Other exceptions are bugs and
    pass.

    Options of the group that no function is given are options of every command too, before its name and after.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        shared = [option for option in self.params if not option.expose_value]
        for command in self.commands.values():
            command.params.extend(shared)

    def main(self, args: Sequence[str] | None = None, **settings: Any) -> None:  # type: ignore[override]
        given = list(sys.argv[1:] if args is None else args)
        # Looked up here and not by the option itself: an option that does not parse is reported in JSON too.
        _output.begin(as_json="--json" in itertools.takewhile("--".__ne__, given))
        try:
            if "" in given:  # which as a path would be the working folder
                raise _Usage("an argument is empty, as of a variable that is not set")
            code = super().main(given or ["--help"], **{**settings, "standalone_mode": False})
            code = code if given else UsageError.exit_code
        except _Usage as error:
            sentence, *meant = _MEANT.split(error.format_message().replace("Value error, ", "").strip())
            # An option without its value is reported of no command.
            command = error.ctx.command_path if error.ctx else " ".join(["sift", *filter(self.commands.get, given)][:2])
            hint = f"did you mean {meant[0]}?" if meant else f"{command} --help"
            code = _refuse(UsageError(sentence.rstrip("."), hint=hint))
        except SiftError as error:
            code = _refuse(error)
        sys.exit(code or 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort) as stop:  # of which Typer would say nothing; Abort is at a question
            raise _interrupted(stop) from None


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is to clean up as Ctrl-C does."""


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the cleaning up
    raise _Terminated


def _interrupted(stop: BaseException) -> Interrupted:
    left = getattr(stop, "__notes__", (None,))[-1]
    return Interrupted(signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT, left)


def _refuse(error: SiftError) -> int:
    with contextlib.suppress(OutputUnwritable):  # the document alone: the sentence went to stderr
        _output.error(error)
    return error.exit_code


app = typer.Typer(
    name="sift",
    cls=SiftGroup,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": []},  # it is one of ours
    help="Sparse models at the compute of dense ones: transform a checkpoint, prove it, run it.",
)


def _version(wanted: bool) -> None:
    if wanted:
        _output.text(f"sift {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    help_: Help = False,
) -> None:
    """Options that come before a command's name."""


for command in (inspect, analyze, flops, transform, train, export, run, bench, densify, convert, check, diff, demo):
    app.command(name=command.__name__.rpartition(".")[2], help=command.__doc__)(command.command)


def main() -> None:
    """Entry point of the console script."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - closed by whoever started it
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    # The traceback of a model that does not run on its input, of which an error says what matters.
    logging.getLogger("torch._subclasses.fake_tensor").addFilter(lambda _: False)
    signal.signal(signal.SIGTERM, _terminate)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    try:
        app(prog_name="sift")
    except KeyboardInterrupt as stop:  # while Typer sets up
        sys.exit(_refuse(_interrupted(stop)))


if __name__ == "__main__":
    main()
