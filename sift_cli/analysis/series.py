"""Analyse one checkpoint or a series of them, layer by layer: of the weights no more than one layer is in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from sift_cli.analysis.graph import graph_of, subgraphs_of
from sift_cli.analysis.layers import SparseLayers
from sift_cli.analysis.overlap import Overlap
from sift_cli.analysis.report import AnalysisReport, CheckpointAnalysis, LayerAnalysis
from sift_cli.checkpoint import open_checkpoint
from sift_cli.core.masks import Mask
from sift_cli.errors import ModelError


def analyze(
    paths: Sequence[str | Path], *, inputs_first: Sequence[str] = (), allow_pickle: bool = False
) -> AnalysisReport:
    """Spectral metrics of the sparse layers of checkpoints, and what changed in their masks.

    Args:
        paths: One checkpoint, or those of one model in the order of training.
        inputs_first: Patterns (``*`` and ``?``) of the names of weights whose axis 0 counts inputs and axis 1 outputs;
            of all others axis 0 counts outputs.
        allow_pickle: See :func:`~sift_cli.checkpoint.open_checkpoint`.

    Raises:
        CheckpointError: One of them cannot be read.
        ModelError: They are not of one model, nothing in them is sparse, a pattern fits no sparse layer, or a weight is
            infinite or NaN.
    """
    with contextlib.ExitStack() as stack:
        opened = [SparseLayers(stack.enter_context(open_checkpoint(path, allow_pickle=allow_pickle))) for path in paths]
        # What is sparse in one of them is followed through all: pruning in steps begins with dense layers.
        names = list(dict.fromkeys(name for checkpoint in opened for name in checkpoint.names()))
        _check(opened, names, inputs_first)
        columns = [
            _through(opened, name, any(fnmatchcase(name, pattern) for pattern in inputs_first)) for name in names
        ]
    rows = zip(*columns, strict=True)
    return AnalysisReport(
        tuple(CheckpointAnalysis(Path(path), layers) for path, layers in zip(paths, rows, strict=True))
    )


def _check(opened: Sequence[SparseLayers], names: Sequence[str], inputs_first: Sequence[str]) -> None:
    start = opened[0]
    where = start.checkpoint.path
    if not names:
        files = where if len(opened) == 1 else f"any of the {len(opened)} files"
        raise ModelError(
            f"nothing is sparse in {files}: there is no mask, and no weight matrix with zeros",
            hint="sift transform makes a sparse model, sift inspect --nonzeros counts zeros",
        )
    for pattern in inputs_first:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ModelError(f"no sparse layer of {where} is called {pattern!r}", hint=f"the first one is {names[0]!r}")
    for other in opened:
        for name in names:
            if other.shapes.get(name) != start.shapes.get(name):
                raise ModelError(
                    f"{where} and {other.checkpoint.path} are not of one model: {name!r} is "
                    f"{_size(start.shapes.get(name))} in the first and {_size(other.shapes.get(name))} in the second",
                    hint="name checkpoints of one model, in the order of its training",
                )


def _size(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape))


def _through(opened: Sequence[SparseLayers], name: str, inputs_first: bool) -> list[LayerAnalysis]:
    """One layer through all checkpoints."""
    found: list[LayerAnalysis] = []
    first: Mask | None = None
    previous: Mask | None = None
    for checkpoint in opened:
        kept, weights = checkpoint.read(name)
        mask = Mask.from_bool(kept)
        sides = [np.moveaxis(array, 1, 0) if inputs_first else array for array in (kept, weights)]
        matrices = [array.reshape(array.shape[0], -1) for array in sides]
        found.append(
            LayerAnalysis(
                name,
                kept.shape,
                graph_of(*matrices),
                tuple(subgraphs_of(*matrices)),
                previous=None if previous is None else Overlap.of(previous, mask),
                first=None if first is None else Overlap.of(first, mask),
            )
        )
        first, previous = mask if first is None else first, mask
    return found
