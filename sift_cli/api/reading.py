"""What is in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sift_cli.api._sources import open_source
from sift_cli.api.counting import flops
from sift_cli.errors import ModelError, VerificationFailed

if TYPE_CHECKING:
    from torch import nn

    from sift_cli.analysis import AnalysisReport
    from sift_cli.analysis.difference import Difference, Side
    from sift_cli.checkpoint.report import InspectReport


def load(path: str | Path, *, arch: str | None = None, allow_pickle: bool = False) -> nn.Module:
    """A model from a file: one that sift wrote, with its masks attached, or any checkpoint whose architecture is known.

    Args:
        path: Artifact, state_dict, safetensors, TorchScript, ….
        arch: Architecture of a plain checkpoint; for an artifact, the user's own callable it was made from.
        allow_pickle: Load pickles that run code.

    Raises:
        CheckpointError, ModelError: It cannot be read, or no model can be made of it.
    """
    return open_source(path, arch=arch, allow_pickle=allow_pickle).module


def inspect(path: str | Path, *, nonzeros: bool | None = None, allow_pickle: bool = False) -> InspectReport:
    """What is in a file: tensors, shapes, sparsity, masks, architecture, plan and certificate.

    Args:
        path: Any checkpoint or ONNX model.
        nonzeros: Count the zeros of dense tensors, which reads all of them; None counts in files of at most 512 MB.
        allow_pickle: Load pickles that run code.

    Raises:
        CheckpointError: It cannot be read.
    """
    from sift_cli.checkpoint import open_checkpoint, report
    from sift_cli.models import architecture_of
    from sift_cli.models.loading import configured_architecture

    found = report.inspect(Path(path), nonzeros=nonzeros, allow_pickle=allow_pickle)
    if found.architecture is None and found.format != "onnx":
        with open_checkpoint(Path(path), allow_pickle=allow_pickle) as checkpoint:
            found = replace(found, architecture=architecture_of(checkpoint) or configured_architecture(checkpoint.path))
    return found


def analyze(
    paths: Sequence[str | Path], *, inputs_first: Sequence[str] = (), allow_pickle: bool = False
) -> AnalysisReport:
    """Masks as graphs: Ramanujan gaps and weighted spectral gaps, and what changed from one checkpoint to the next.

    Args:
        paths, inputs_first, allow_pickle: See :func:`sift_cli.analysis.analyze`.

    Raises:
        CheckpointError: One of the files cannot be read.
        ModelError: Nothing is sparse in them, or they are not of one model.
    """
    from sift_cli.analysis import analyze as of_series

    return of_series(paths, inputs_first=inputs_first, allow_pickle=allow_pickle)


def diff(
    before: str | Path,
    after: str | Path,
    *,
    count: bool | None = None,
    arch: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    dims: Mapping[str, int] | None = None,
    allow_pickle: bool = False,
) -> Difference:
    """What differs between two files, tensor by tensor and to the bit.

    Args:
        before, after: Any two files or folders that sift reads, of two formats too.
        count: Count what both cost, which loads a model; None counts where both have at most 512 MB.
        arch, input_shape, dims: For that, as in :func:`flops`.
        allow_pickle: Load pickles that run code.

    Raises:
        CheckpointError: One of them cannot be read.
    """
    from sift_cli.analysis.difference import compare
    from sift_cli.checkpoint.report import COUNT_LIMIT

    found = compare(Path(before), Path(after), allow_pickle=allow_pickle)
    wanted = count if count is not None else max(found.before.size, found.after.size) <= COUNT_LIMIT

    def counted(side: Side) -> Side:
        if not wanted:
            why = "it was not asked for"
            return replace(side, uncounted=why if count is False else f"the files are large, and {why}")
        try:
            report = flops(side.path, arch=arch, input_shape=input_shape, dims=dims, allow_pickle=allow_pickle)
        except (ModelError, VerificationFailed) as error:
            return replace(side, uncounted=error.message)
        return replace(side, flops=report)

    return replace(found, before=counted(found.before), after=counted(found.after))
