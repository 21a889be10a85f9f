"""Options that several commands share, each written once."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sift_cli.commands import _output
from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import PlanError

if TYPE_CHECKING:
    import numpy as np


def _sparsity(text: str | Fraction) -> Fraction:
    try:
        return parse_sparsity(text)
    except PlanError as error:
        raise typer.BadParameter(f"{error.message}; {error.hint}") from None


class Shape(tuple[int, ...]):
    """A shape as an option's value."""


def _shape(text: str) -> Shape:
    try:
        shape = Shape(int(part) for part in text.replace(",", "x").split("x"))
    except ValueError:
        shape = Shape()
    if not shape or min(shape) < 1:
        raise typer.BadParameter(f"{text!r} is no shape; write it as 1x3x224x224")
    return shape


def sizes(dims: list[str] | None) -> dict[str, int]:
    """The values of :data:`Dim`: sizes by name."""
    found = {}
    for text in dims or ():
        name, _, size = text.rpartition("=")
        if not name or not (size.isascii() and size.isdigit() and len(size) < 10) or int(size) < 1:
            raise typer.BadParameter(f"{text!r} is not NAME=SIZE", param_hint="--dim")
        found[name] = int(size)
    return found


class Arrays(dict[str, "np.ndarray"]):
    """Arrays by name as an option's value."""


def _arrays(text: str) -> Arrays:
    import zipfile

    import numpy as np

    try:
        with np.load(text, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise typer.BadParameter(f"{text} is one array without a name; write it with numpy.savez")
            return Arrays({name: file[name] for name in file.files})
    except OSError as error:
        raise typer.BadParameter(f"cannot read {text}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise typer.BadParameter(f"{text} is no .npz of arrays; write it with numpy.savez") from None


def _help(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        _output.page(context)
        raise typer.Exit


#: Of every command, before its name or after: see :class:`sift_cli.app.SiftGroup`. They reach the sink and no command.
Json = Annotated[bool, typer.Option("--json", expose_value=False, help="Print one JSON document.")]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", callback=_output.be_quiet, expose_value=False, help="Say nothing about the work, only errors."
    ),
]
Help = Annotated[
    bool,
    typer.Option("--help", callback=_help, is_eager=True, expose_value=False, help="Show this message and exit."),
]
Source = Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint, or an architecture: torchvision:resnet18.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Arch = Annotated[
    str | None,
    typer.Option(help="Architecture of the checkpoint: torchvision:resnet18, timm:…, package.module:factory."),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Load pickles that run code. Only for files you trust.")
]
InputShape = Annotated[
    Shape | None,
    typer.Option("--input", parser=_shape, metavar="SHAPE", help="Shape of the input: 1x3x224x224, or 1x128 tokens."),
]
Dim = Annotated[
    list[str] | None, typer.Option(metavar="NAME=SIZE", help="Size of a symbolic dimension of an ONNX model.")
]
InputArrays = Annotated[
    Arrays | None,
    typer.Option("--input-npz", parser=_arrays, metavar="FILE", help="Example inputs, an array for each by its name."),
]
Sparsity = Annotated[
    Fraction | None,
    typer.Option(
        parser=_sparsity, metavar="S", show_default=False,
        help="Nominal sparsity in [0, 1): 0.9, 9/10 or 90%. It sets the width.",
    ),
]  # fmt: skip
MinSparsity = Annotated[
    Fraction | None,
    typer.Option(
        parser=_sparsity, metavar="S", show_default=False,
        help="Make every layer of an ONNX model sparse that has this share of zeros, and no other.",
    ),
]  # fmt: skip
Seed = Annotated[int, typer.Option(help="Seed of masks and weights.", min=0, max=2**63 - 1)]
