"""Hold files to budgets in CI: size, FLOPs, sparsity, the cost or outputs of another file, and saved figures. Budgets
are options, or tables in sift.toml or pyproject.toml.

Exit codes: 0 all held, 6 one is broken, 2 wrong usage or configuration, 3 a file could not be read or measured.

Examples:

    sift check model.onnx --max-size 20MB --max-flops 2G --min-sparsity 0.9

    sift check wide.safetensors --iso-flop-of resnet18.pt

    sift check fast.onnx --same-output-as pruned.onnx

    sift check --baseline sift-baseline.json --update-baseline

    sift check --format github
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._options import AllowPickle, Arch, Dim, InputShape, sizes
from sift_cli.errors import OutputUnwritable

if TYPE_CHECKING:
    from sift_cli.budgets import CheckReport


class Format(StrEnum):
    text = "text"
    github = "github"
    junit = "junit"


def command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH", help="Files and globs; without any, those of the configuration."),
    ] = None,
    max_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Bytes on disk: 20MB, 20MiB.")] = None,
    max_flops: Annotated[
        str | None, typer.Option(metavar="N", help="FLOPs (2 × MACs) of kept weights, one sample: 2G.")
    ] = None,
    max_macs: Annotated[str | None, typer.Option(metavar="N", help="MACs of kept weights, one sample: 1G.")] = None,
    max_params: Annotated[str | None, typer.Option(metavar="N", help="Elements of all tensors: 12M.")] = None,
    min_sparsity: Annotated[
        str | None, typer.Option(metavar="S", help="Share of all weights that are masked or 0: 0.9, 90%.")
    ] = None,
    iso_flop_of: Annotated[
        str | None, typer.Option(metavar="BASE", help="File or architecture that it has to cost as much as.")
    ] = None,
    same_output_as: Annotated[
        str | None, typer.Option(metavar="ONNX", help="ONNX file that it has to compute the same as.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="sift.toml or pyproject.toml; by default the nearest upwards.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(metavar="FILE", help="Saved figures to compare with.")] = None,
    update_baseline: Annotated[bool, typer.Option("--update-baseline", help="Save the figures there instead.")] = False,
    tolerance: Annotated[
        str | None, typer.Option(metavar="+P%", help="How much more than the baseline is allowed: +2%.")
    ] = None,
    arch: Arch = None,
    input_shape: InputShape = None,
    dim: Dim = None,
    output_format: Annotated[Format, typer.Option("--format", help="How it is printed.")] = Format.text,
    allow_pickle: AllowPickle = False,
) -> None:
    if _output.wants_json() and output_format is not Format.text:
        raise typer.BadParameter(f"--json does not go with --format {output_format}", param_hint="--format")
    options = {
        "max-size": max_size, "max-flops": max_flops, "max-macs": max_macs, "max-params": max_params,
        "min-sparsity": min_sparsity, "iso-flop-of": iso_flop_of, "same-output-as": same_output_as,
        "tolerance": tolerance, "arch": arch, "input": input_shape,
        "dims": sizes(dim) or None,
    }  # fmt: skip
    with _output.working("checking"):
        report = api.check(
            paths or (), options={key: value for key, value in options.items() if value is not None}, config=config,
            baseline=baseline, update_baseline=update_baseline, allow_pickle=allow_pickle,
        )  # fmt: skip
    if _output.wants_json():
        _output.data(report.to_json())
    else:
        {Format.text: _print, Format.github: _print_github, Format.junit: _print_junit}[output_format](report)
    if update_baseline:
        _output.note(f"wrote {report.baseline}" if report.updated else f"{report.baseline} was not written: see above")
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _print(report: CheckReport) -> None:
    from sift_cli.budgets.budget import FIGURES

    if rows := [[str(file.path), row.budget, *row.numbers(), row.verdict] for file, row in report.rows()]:
        _output.table("", ["file", "budget", "measured", "allowed", "verdict"], rows, left=2)
    if report.updated:
        figures = ([str(file.path), *(file.figures.get(name, "–") for name in FIGURES)] for file in report.files)
        _output.table("saved", ["file", *FIGURES], figures)
    for file, row in report.rows():
        if row.verdict != "held" and row.why:
            _output.text(f"{file.path}: {row.budget}: {row.why}")
    _output.text(report.summary())


def _print_github(report: CheckReport) -> None:
    from sift_cli.budgets import github

    for line in github.annotate(report, Path(os.environ.get("GITHUB_WORKSPACE", "."))):
        _output.text(line)
    _output.text(report.summary())
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(github.summary(report))
        except OSError as error:
            raise OutputUnwritable(path, error.strerror or str(error)) from None


def _print_junit(report: CheckReport) -> None:
    from sift_cli.budgets import junit

    _output.print_out(junit.document(report))
