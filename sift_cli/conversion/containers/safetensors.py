"""One safetensors file."""

from __future__ import annotations

from collections.abc import Callable

from sift_cli.checkpoint import safetensors_header
from sift_cli.conversion.containers import PlannedFile, Tensor, arrays_of
from sift_cli.conversion.encodings import About
from sift_cli.errors import ExportError

SUFFIXES = (".safetensors",)
ENCODING = "sift"
CHECKSUMS = False


def plan(tensors: list[Tensor], about: Callable[[list[str]], About], shard_size: int) -> list[PlannedFile]:
    return [plan_file("", tensors, about([tensor.name for tensor in tensors]))]


def plan_file(name: str, tensors: list[Tensor], about: About) -> PlannedFile:
    """The file called ``name``.

    Raises:
        ExportError: A name is there twice, or cannot be stored.
    """
    arrays = arrays_of(tensors)
    try:
        header, order = safetensors_header.layout(arrays, {"format": "pt", **about.metadata})
    except (ValueError, UnicodeEncodeError) as error:
        raise ExportError(f"a safetensors file cannot hold this: {error}") from None
    places, end = {}, len(header)
    for stored in order:
        places[stored] = end
        end += arrays[stored].nbytes
    return PlannedFile(name, end, places, lambda _: [(0, header)])
