"""What a model takes on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sift_cli.checkpoint import sniff
from sift_cli.errors import Unreadable

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto


def bytes_on_disk(path: Path) -> int:
    """Bytes of a file, and of all files that an ONNX model keeps data in; of a folder, of the files right in it.

    Raises:
        Unreadable, CheckpointError: It is no file with tensors.
        Malformed: External data is missing, or lies outside of the model's folder.
    """
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        external = external_files(path) if sniff(path) == "onnx" else set()
        return sum(file.stat().st_size for file in {path, *external})
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from None


def external_files(path: Path) -> set[Path]:
    """The files in which the ONNX model at ``path`` keeps the data of tensors, wherever those are in it.

    Raises:
        Malformed: One is missing, is a link, or lies outside of the model's folder.
    """
    import onnx

    from sift_cli.checkpoint.readers.onnx import data_file, parse

    external = onnx.TensorProto.EXTERNAL
    return {data_file(path, tensor)[0] for tensor in _tensors(parse(path)) if tensor.data_location == external}


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors in a model, in subgraphs and functions too."""
    from onnx import TensorProto

    waiting: list[Any] = [model]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, TensorProto):
            yield inner
            continue
        for field, value in inner.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)
