"""One ONNX file, everything inside."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import EncodeError

from sift_cli.errors import ExportError


def fits(model: onnx.ModelProto) -> bool:
    """Whether one file can hold ``model``: a protobuf message has fewer than 2³¹ bytes."""
    try:
        return bool(model.ByteSize() < 2**31)
    except EncodeError:  # what protobuf itself says of a larger one
        return False


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model`` to exactly ``path``, the same bytes every time.

    Raises:
        ExportError: It is too large.
    """
    if not fits(model):
        raise ExportError("the model takes more than 2 GB, and one ONNX file holds no more")
    path.write_bytes(model.SerializeToString(deterministic=True))
