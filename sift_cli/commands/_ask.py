"""Ask when several architectures fit a checkpoint, where there is someone to ask."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from sift_cli.commands import _output
from sift_cli.errors import AmbiguousArchitecture

T = TypeVar("T")


def choosing(doing: str, function: Callable[..., T], source: str, **arguments: Any) -> T:
    """Call ``function(source, **arguments)``, and once more with the architecture that the user picks if several fit.

    While it runs, a spinner says ``doing``; none runs while the user is asked.
    """
    try:
        with _output.working(doing):
            return function(source, **arguments)
    except AmbiguousArchitecture as tie:
        if _output.wants_json() or not sys.stdin.isatty():
            raise
        candidates: list[str] = list(tie.fields["candidates"])  # type: ignore[call-overload]
        typer.echo(f"{tie.message}:", err=True)
        for number, name in enumerate(candidates, 1):
            typer.echo(f"  {number}  {name}", err=True)
        picked = typer.prompt("which one", type=int, err=True)
        if not 1 <= picked <= len(candidates):
            raise
        with _output.working(doing):
            return function(source, **{**arguments, "arch": candidates[picked - 1]})
