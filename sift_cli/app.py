"""The command line: a table of contents, and the one place where an error becomes a sentence."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sift_cli import __version__
from sift_cli.commands import (
    _output,
    analyze,
    bench,
    check,
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
from sift_cli.errors import SiftError

#: Typer has it, and does not export it.
_UsageError: Any = typer.BadParameter.__bases__[0]


class SiftGroup(TyperGroup):
    """Renders a SiftError as a sentence with its hint, and ends with its exit code. Other exceptions are bugs and
    pass."""

    def invoke(self, ctx: Any) -> Any:
        # Looked up here and not by the option itself: an option that does not parse is reported in JSON too.
        _output.use_json("--json" in [*ctx.args, *getattr(ctx, "_protected_args", ())])
        try:
            return super().invoke(ctx)
        except SiftError as error:
            _output.error(error)
            raise typer.Exit(error.exit_code) from error
        except _UsageError as error:
            command = error.ctx.command_path if error.ctx else f"sift {ctx.invoked_subcommand}"
            _output.usage_error(error.format_message(), command)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=SiftGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Sparse models at the compute of dense ones: transform a checkpoint, prove it, run it.",
)


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"sift {__version__}")
        raise typer.Exit


for command in (inspect, analyze, flops, transform, train, export, run, bench, densify, check, diff, demo):
    app.command(name=command.__name__.rpartition(".")[2], help=command.__doc__)(command.command)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="sift")


if __name__ == "__main__":
    main()
