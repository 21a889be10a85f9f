"""Whether two ONNX files compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from sift_cli.checkpoint import sniff
from sift_cli.errors import ModelError
from sift_cli.runtime import session
from sift_cli.runtime.sessions import sentence
from sift_cli.verify.feeds import Feed, feeds
from sift_cli.verify.outputs import BOUND, ROUNDINGS, Outputs, difference, outputs, ways
from sift_cli.verify.pruned_onnx import WORST


def distance(path: Path, base: Path, *, shape: tuple[int, ...] | None = None) -> tuple[float, float]:
    """Largest difference between the outputs of two files for the same random inputs, with sift's library and without,
    and the bound on it that ``sift export`` has: both as parts of the largest number of an output.

    Args:
        path: The file.
        base: What it is compared with.
        shape: Shape of the inputs, see :func:`~sift_cli.verify.feeds.feeds`.

    Raises:
        CheckpointError: One of them cannot be read.
        ExportError: The base does not run on random inputs.
        ModelError: One of them is not ONNX; or the file does not run on inputs of the base, or has other outputs.
        RuntimeUnavailable: onnxruntime is missing or does not know one of the operators.
    """
    for one in (path, base):
        if sniff(one) != "onnx":
            raise ModelError(f"{one} is no ONNX file", hint=f"sift export {one} --format onnx -o {one.stem}.onnx")
    first = session(base, library=False)
    examples = feeds(first, shape=shape)
    wanted = outputs(first, examples)
    error = 0.0
    for library in ways().values():
        got = _run(session(path, library=library), path, base, examples)
        if list(map(len, got)) != list(map(len, wanted)):
            raise ModelError(f"{path} has {len(got[0])} outputs, and {base} has {len(wanted[0])}")
        error = max(error, difference(got, wanted))
    if not BOUND < error < np.inf:
        return error, BOUND
    # A deep model may turn the rounding of float32 itself into more.
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    rounded = outputs(session(base, library=False, options=options), examples)
    return error, min(max(BOUND, ROUNDINGS * difference(rounded, wanted)), WORST)


def _run(run: InferenceSession, path: Path, base: Path, examples: Sequence[Feed]) -> list[Outputs]:
    here, there = {node.name for node in run.get_inputs()}, set(examples[0])
    if here != there:
        names = " and ".join(", ".join(sorted(some)) for some in (here, there))
        raise ModelError(f"{path} and {base} have inputs of other names: {names}")
    try:
        return outputs(run, examples)
    except Exception as error:  # onnxruntime's own exceptions share no base
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise ModelError(f"{path} does not run on inputs of {base}: {sentence(error)}") from None
