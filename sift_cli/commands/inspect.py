"""Show what is in a file: tensors, sparsity, architecture, masks, plan and certificate. Reads headers and nothing
more if it can.

Examples:

    sift inspect model.safetensors

    sift inspect model.pt --nonzeros --json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._options import AllowPickle
from sift_cli.core.certificate import Certificate


def command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint or an ONNX model.")],
    nonzeros: Annotated[
        bool | None,
        typer.Option(
            "--nonzeros/--no-nonzeros", help="Count zeros of dense tensors, by default in files up to 512 MB."
        ),
    ] = None,
    allow_pickle: AllowPickle = False,
) -> None:
    report = api.inspect(path, nonzeros=nonzeros, allow_pickle=allow_pickle)
    if _output.wants_json():
        _output.data(report.to_json())
        return
    _output.table(
        "",
        ["tensor", "shape", "dtype", "stored as", "parameters", "bytes", "sparsity"],
        (
            [
                t.spec.name, "×".join(map(str, t.spec.shape)) or "scalar", t.spec.dtype, t.spec.format,
                t.spec.numel, t.spec.stored_bytes, _share(t.sparsity),
            ]
            for t in report.tensors
        ),
        left=4,
    )  # fmt: skip
    kept = sum(tensor.nonzero or 0 for tensor in report.masked)
    for name, value in (
        ("format", report.format + (f", tensors under {report.wrapper!r}" if report.wrapper else "")),
        ("prefix", report.prefix),
        ("architecture", report.architecture or " or ".join(report.candidates)),
        ("tensors", f"{len(report.tensors):,}"),
        ("parameters", f"{report.parameters:,}"),
        ("stored", f"{_output.size(report.stored_bytes)} (dense {_output.size(report.dense_bytes)})"),
        ("sparsity", _share(report.sparsity)),
        ("masks", f"{len(report.masked)}, {kept:,} weights kept" if report.masked else ""),
        ("plan", _plan(report.plan)),
        ("ignored", ", ".join(report.ignored)),
    ):
        if value:
            _output.text(f"{name:13}{value}")
    if report.certificate:
        _output.certificate(_certificate(report.certificate, path))


def _share(sparsity: float | None) -> str:
    return "not counted" if sparsity is None else f"{sparsity:.4f}"


def _plan(plan: object) -> str:
    if not isinstance(plan, dict):
        return ""
    return f"{plan.get('kind')} at sparsity {plan.get('sparsity')}"


def _certificate(document: object, path: Path) -> Certificate:
    from sift_cli.errors import Malformed

    try:
        return Certificate.from_json(document if isinstance(document, dict) else {})
    except ValueError as error:
        raise Malformed(path, "its certificate", str(error)) from None
