"""Compare two files tensor by tensor: what was added, removed, reshaped or changed and by how much, what masks have in
common, sizes and FLOPs. Any two files that sift reads, also of two formats.

The exit code is 0 whatever differs, as that of git diff; with --exit-code it is 1 if anything does.

Examples:

    sift diff before.safetensors after.safetensors

    sift diff model.pt model.onnx --json

    sift diff a.pt b.pt --exit-code && echo equal to the bit
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._options import AllowPickle, Arch, Dim, InputShape, sizes

if TYPE_CHECKING:
    from sift_cli.analysis.difference import Difference, Side, TensorDifference


def command(
    before: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint, a folder of a model, or an ONNX file.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 if anything differs.")] = False,
    flops: Annotated[
        bool | None,
        typer.Option("--flops/--no-flops", help="Count FLOPs, by default where both have at most 512 MB."),
    ] = None,
    arch: Arch = None,
    input_shape: InputShape = None,
    dim: Dim = None,
    allow_pickle: AllowPickle = False,
) -> None:
    with _output.working(f"comparing {before} and {after}"):
        found = api.diff(
            before, after, count=flops, arch=arch, input_shape=input_shape, dims=sizes(dim), allow_pickle=allow_pickle
        )
    _output.data(found.to_json()) if _output.wants_json() else _print(found)
    if exit_code and not found.equal:
        raise typer.Exit(1)


def _print(found: Difference) -> None:
    changed = [tensor for tensor in found.tensors if tensor.change != "same"]
    if changed:
        _output.table(
            "",
            ["tensor", "what", "shape", "dtype", "elements", "max |Δ|", "kept in both", "in either", "churn"],
            map(_row, changed),
            left=4,
        )
    if any(tensor.values and tensor.values.nonfinite for tensor in changed):
        _output.text("* and elements that are infinite or NaN")
    counts = ", ".join(f"{number:,} {change}" for change, number in found.counts().items() if number)
    _output.text(f"tensors   {counts or 'none'}")
    if (overlap := found.overlap) is not None:
        either = overlap.before + overlap.after - overlap.shared
        churn = "–" if overlap.churn is None else f"{overlap.churn:.4f}"
        _output.text(f"masks     {overlap.shared:,} weights kept in both, {either:,} in either, churn {churn}")
    _output.text(f"size      {_output.size(found.before.size)} → {_output.size(found.after.size)}")
    _output.text(f"FLOPs     {_flops(found.before)} → {_flops(found.after)}")
    for side in (found.before, found.after):
        if side.uncounted:
            _output.text(f"FLOPs of {side.path} are not counted: {side.uncounted}")
    _output.text("equal" if found.equal else "different")


def _row(tensor: TensorDifference) -> list[str]:
    specs = [spec for spec in (tensor.before, tensor.after) if spec is not None]
    values, overlap = tensor.values, tensor.overlap
    cells = [tensor.name, tensor.change]
    for texts in (["×".join(map(str, spec.shape)) or "scalar" for spec in specs], [spec.dtype for spec in specs]):
        cells.append(" → ".join(dict.fromkeys(texts)))
    cells.append("–" if values is None else f"{values.differing:,}")
    largest = None if values is None else values.largest
    mark = "*" if values is not None and values.nonfinite else ""
    cells.append(("–" if largest is None else f"{largest:.4g}") + mark)
    if overlap is None:
        return [*cells, "–", "–", "–"]
    either = overlap.before + overlap.after - overlap.shared
    churn = "–" if overlap.churn is None else f"{overlap.churn:.4f}"
    return [*cells, f"{overlap.shared:,}", f"{either:,}", churn]


def _flops(side: Side) -> str:
    return "not counted" if side.flops is None else f"{2 * side.flops.sparse:,}"
