"""What a model costs."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sift_cli.api._sources import is_onnx, kept, open_source
from sift_cli.core.counts import FlopReport
from sift_cli.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    from sift_cli.flops.training import TrainingReport


Convention = Literal["macs", "official", "paper-gpt"]


def flops(
    source: str | Path,
    *,
    count: Convention = "macs",
    counter: Literal["fvcore", "dispatch"] = "fvcore",
    arch: str | None = None,
    allow_pickle: bool = False,
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
    dims: Mapping[str, int] | None = None,
) -> FlopReport:
    """MACs of a model for one forward pass of one sample, dense and by nonzeros.

    Args:
        source: ONNX file, artifact, checkpoint, or an architecture such as ``torchvision:resnet18``.
        count: "macs" counts convolutions, linear layers and attention products; "official" follows the profiler of the
            Sparse-IFT authors; "paper-gpt" is the paper's formula for a training step of a GPT on one sequence.
        counter: What counts a torch model. "fvcore" is checked against "dispatch".
        arch, allow_pickle: As in :func:`load`.
        input_shape, input_arrays: Example inputs, see :func:`sift_cli.models.load`.
        dims: Sizes of an ONNX model's symbolic dimensions other than the batch.

    Raises:
        CheckpointError, ModelError: It cannot be read or traced.
        VerificationFailed: The two counters disagree.
    """
    from sift_cli.flops import count_official, count_onnx, count_paper_gpt, cross_check

    if is_onnx(source):
        if count != "macs":
            raise ModelError(
                f"--count {count} is defined for torch models", hint="give the checkpoint, not the ONNX file"
            )
        return count_onnx(Path(source), dims=dims)
    model = open_source(
        source, arch=arch, allow_pickle=allow_pickle, input_shape=input_shape, input_arrays=input_arrays
    )
    nonzero = kept(model, Path(source))
    if count == "official":
        return count_official(model.module, model.inputs, nonzero=nonzero or {})
    by_fvcore, by_dispatch = cross_check(model.module, model.inputs, nonzero=nonzero)
    report = by_fvcore if counter == "fvcore" else by_dispatch
    return count_paper_gpt(model.module, report) if count == "paper-gpt" else report


def training_flops(
    source: str | Path,
    *,
    interval: int = 100,
    window: Fraction = Fraction(3, 4),
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
    **counting: Any,
) -> TrainingReport:
    """FLOPs of a training step on one sample, for each way to train a sparse model.

    Args:
        source: As in :func:`flops`. A transformed model is compared with the dense one before the transform, any other
            with itself without its zeros.
        interval: Steps between two updates of the masks.
        window: Share of the steps in which there are updates.
        input_shape, input_arrays, counting: The other arguments of :func:`flops`.

    Raises:
        CheckpointError, ModelError, VerificationFailed: As :func:`flops`.
    """
    from sift_cli.checkpoint import open_checkpoint
    from sift_cli.export import manifest
    from sift_cli.flops.training import training_flops as by_method

    original = None
    if Path(source).is_file():
        with open_checkpoint(Path(source), allow_pickle=counting.get("allow_pickle", False)) as checkpoint:
            if manifest.is_artifact(checkpoint.metadata):
                original = 2 * manifest.loads(checkpoint.metadata, Path(source)).plan.macs_before
    if original is not None and (input_shape or input_arrays or counting.get("dims")):
        raise ModelError(
            "the dense model of an artifact is counted at the input of its plan only",
            hint="leave out --input, --input-npz and --dim",
        )
    report = flops(source, input_shape=input_shape, input_arrays=input_arrays, **counting)
    return by_method(2 * report.dense, 2 * report.sparse, original=original, interval=interval, window=window)
