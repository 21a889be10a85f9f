"""What ONNX models compute for the same inputs, and how far that is apart."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import onnx
from onnxruntime import InferenceSession

from sift_cli.core.operators import DOMAIN
from sift_cli.errors import RuntimeUnavailable
from sift_cli.export.arranging import forget
from sift_cli.runtime import library_path
from sift_cli.verify.feeds import Feed

Outputs = Sequence[np.ndarray]

#: Largest difference between two computations in float32, as a part of the largest output.
BOUND = 1e-4
#: The difference may be this many times what rounding to float32 costs the original, if that is more.
ROUNDINGS = 4


def ways() -> dict[str, bool]:
    """How a file can be run here: whether with the library, by name, the best way last."""
    found = {"onnxruntime without sift": False}
    with contextlib.suppress(RuntimeUnavailable):  # a file for another machine; nothing is claimed of kernels then
        library_path()
        found["onnxruntime with sift"] = True
    return found


def outputs(run: InferenceSession, examples: Sequence[Feed], names: Sequence[str] | None = None) -> list[Outputs]:
    """Outputs that are tensors: sequences and maps are what classifiers of other kinds than sift's layers return."""
    return [[array for array in run.run(names, feed) if isinstance(array, np.ndarray)] for feed in examples]


def sparse_outputs(model: onnx.ModelProto) -> list[str]:
    """Names of what sift's operators in ``model`` compute, and of the weights that it decodes for dense ones: behind a
    softmax, say, an output shows little of them."""
    return [node.output[0] for node in model.graph.node if node.domain == DOMAIN]


def showing(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """``model`` with these values among its outputs, and none of them arranged."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    forget(shown)
    already = {value.name for value in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in already)
    return bytes(shown.SerializeToString())


def difference(got: Sequence[Outputs], wanted: Sequence[Outputs]) -> float:
    """The largest difference as a part of the largest number of its output; of anything but floats the share that
    differs, since a label between two that are equally good depends on a rounding."""
    pairs = ((a, b) for one, other in zip(got, wanted, strict=True) for a, b in zip(one, other, strict=True))
    return max((_distance(a, b) for a, b in pairs), default=0.0)


def _distance(got: np.ndarray, wanted: np.ndarray) -> float:
    if got.shape != wanted.shape:
        return float(np.inf)
    if not wanted.size:
        return 0.0
    if wanted.dtype.kind != "f":
        return float(np.mean(got != wanted))
    error = float(np.abs(got.astype(np.float64) - wanted).max()) / (float(np.abs(wanted).max()) or 1.0)
    return error if np.isfinite(error) else float(np.inf)
