"""Look at masks as graphs: Ramanujan gap Δr, weighted spectral gap λ and their iterative means, and from one checkpoint
to the next how much of the masks moved.

Examples:

    sift analyze r18w90.safetensors

    sift analyze r18w90.safetensors --layers

    sift analyze epoch00.safetensors epoch10.safetensors epoch20.safetensors --json
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._options import AllowPickle

if TYPE_CHECKING:
    from sift_cli.analysis import CheckpointAnalysis
    from sift_cli.analysis.overlap import Overlap

_METRICS = {
    "ramanujan_gap": "Δr",
    "relative_ramanujan_gap": "Δr / bound",
    "weighted_gap": "λ",
    "imdb": "Δr imdb",
    "imsg": "λ imsg",
}
_OVERLAP = ["kept", "Jaccard", "churn"]


def command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="A sparse checkpoint, or several in the order of training.")
    ],
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer too.")] = False,
    inputs_first: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Names of weights that are stored as inputs × outputs, as those of GPT-2 are."
        ),
    ] = None,
    allow_pickle: AllowPickle = False,
) -> None:
    with _output.working(f"analysing {paths[0] if len(paths) == 1 else f'{len(paths)} checkpoints'}"):
        report = api.analyze(paths, inputs_first=inputs_first or (), allow_pickle=allow_pickle)
    if _output.wants_json():
        _output.data(report.to_json())
        return
    series = len(report.checkpoints) > 1
    if layers:
        for checkpoint in report.checkpoints:
            _print_layers(checkpoint, series)
    _output.table(
        "",
        ["checkpoint", "layers", "sparsity", *_METRICS.values(), *(_OVERLAP if series else ())],
        (
            [
                checkpoint.path, len(checkpoint.layers), f"{checkpoint.sparsity:.4f}",
                *(_number(checkpoint.metrics[name]) for name in _METRICS),
                *(_moved(checkpoint.previous) if series else ()),
            ]
            for checkpoint in report.checkpoints
        ),
    )  # fmt: skip
    _output.text("metrics are means over the layers that have them" + "; masks beside the previous ones" * series)


def _print_layers(checkpoint: CheckpointAnalysis, series: bool) -> None:
    from sift_cli.analysis.report import METRICS

    _output.text(str(checkpoint.path))
    _output.table(
        "",
        ["layer", "inputs × outputs", "mean degrees", "σ₁", "σ₂", *_METRICS.values(), *(_OVERLAP if series else ())],
        (
            [
                layer.name, f"{layer.graph.left} × {layer.graph.right}",
                f"{layer.graph.left_degree:.1f} × {layer.graph.right_degree:.1f}",
                *map(_number, layer.graph.singular or (None, None)),
                *(_number(METRICS[name](layer)) for name in _METRICS),
                *(_moved(layer.previous) if series else ()),
            ]
            for layer in checkpoint.layers
        ),
    )  # fmt: skip


def _moved(overlap: Overlap | None) -> list[str]:
    shares = (overlap.kept, overlap.jaccard, overlap.churn) if overlap else (None, None, None)
    return ["–" if share is None else f"{share:.4f}" for share in shares]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
