"""An ONNX model as an ONNX model: a file with a graph, of which there is no streaming."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from sift_cli.checkpoint import open_checkpoint, sniff
from sift_cli.conversion.options import Converted
from sift_cli.core.files import atomic
from sift_cli.core.half import Storage
from sift_cli.errors import ExportError

SUFFIX = ".onnx"


def convert_model(
    path: Path, output: Path, to: str, *, dtype: Storage | None, least: float | None, verify: bool, force: bool
) -> Converted:
    """Write the ONNX model at ``path`` to ``output`` with its weights in another form of
    :mod:`sift_cli.export.graph_weights`.

    Args:
        path: An ONNX model.
        output: The file.
        to: "sift", "coo" or "dense".
        dtype: What weights are rounded to; None leaves them.
        least: Share of zeros from which on a weight without a mask gets one of its zeros, where it is smaller for it.
        verify: Read all tensors back, and compare them and what onnxruntime computes.
        force: Replace the output if it exists.

    Raises:
        CheckpointError: ``path`` cannot be read.
        ExportError: It is no ONNX model, or cannot be stored in that form.
        VerificationFailed: The output is not the same model.
    """
    if path.is_dir() or sniff(path) != "onnx":
        raise ExportError(f"{path} has no graph to write as ONNX", hint=f"sift export {path} -o {output}")
    from sift_cli.conversion.graph import check_same, rewritten
    from sift_cli.export import onnx_file
    from sift_cli.export.graph_weights import Form

    if to not in get_args(Form):
        raise ExportError(
            f"{output} cannot hold weights as {to!r}", hint=f"choose one of {', '.join(get_args(Form))} (--to)"
        )
    form, why = cast(Form, to), None
    with atomic(output, force=force) as new:
        onnx_file.write(rewritten(path, form, dtype=dtype, least=least or 0.0), new)
        if verify:
            why = check_same(path, new, form, dtype=dtype)
        with open_checkpoint(path) as before, open_checkpoint(new) as after:
            had, has = (sum(spec.nonzero is not None for spec in one.tensors.values()) for one in (before, after))
            taken, takes = (sum(spec.stored_bytes for spec in one.tensors.values()) for one in (before, after))
            count = len(after.tensors)
    dropped = had if to == "dense" else 0
    return Converted(output, to, count, has, dropped, taken, takes, verify, 0, why)
