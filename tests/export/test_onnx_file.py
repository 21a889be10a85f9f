"""What one ONNX file can hold."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from google.protobuf.message import EncodeError

from sift_cli.errors import ExportError
from sift_cli.export.onnx_file import fits, write


class TooLarge:
    """Says what protobuf says of a message of 2 GB or more, which a test has no memory for."""

    def ByteSize(self) -> int:
        raise EncodeError("Failed to serialize proto")


def test_two_gigabytes_are_too_much(tmp_path: Path) -> None:
    assert fits(onnx.ModelProto())
    assert not fits(TooLarge())  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="more than 2 GB"):
        write(TooLarge(), tmp_path / "m.onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
