"""Kinds of files that hold named arrays: one module a kind, known by the suffix of the output.

Every module here offers :class:`Container`. A container says where each array lies before there is any: the arrays can
then be written in any order, at the same time, and again after an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from sift_cli.conversion.encodings import About, Array
from sift_cli.errors import ExportError
from sift_cli.registry import discover, names


@dataclass(frozen=True)
class PlannedFile:
    """A file before it is written.

    Attributes:
        name: In a folder; "" where the output is one file.
        size: Bytes.
        places: First byte of each array, by its name.
        frame: The bytes around the arrays, as (first byte, bytes). It is given the CRC-32 of each array, where the
            container asks for them (``CHECKSUMS``), else an empty mapping.
    """

    name: str
    size: int
    places: Mapping[str, int]
    frame: Callable[[Mapping[str, int]], list[tuple[int, bytes]]]


@dataclass(frozen=True)
class Tensor:
    """What belongs together in a file: the arrays of one tensor, one of them where it is stored dense.

    Attributes:
        name: The tensor's.
        arrays: By their names in the file.
        listed: The names that the index of a folder has for it.
    """

    name: str
    arrays: Mapping[str, Array]
    listed: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


def arrays_of(tensors: Sequence[Tensor]) -> dict[str, Array]:
    """All arrays of a file, by their names.

    Raises:
        ExportError: A name is there twice.
    """
    found: dict[str, Array] = {}
    for tensor in tensors:
        for name, array in tensor.arrays.items():
            if name in found:
                raise ExportError(
                    f"{tensor.name!r} needs the name {name!r}, which another tensor has",
                    hint="rename one of them (--rename), or choose another encoding (--to)",
                )
            found[name] = array
    return found


class Container(Protocol):
    #: Suffixes of its files; "" for a folder.
    SUFFIXES: tuple[str, ...]
    #: What an output of this kind is encoded as if nothing else is said.
    ENCODING: str
    #: Whether :attr:`PlannedFile.frame` needs the arrays' checksums.
    CHECKSUMS: bool

    @staticmethod
    def plan(tensors: list[Tensor], about: Callable[[list[str]], About], shard_size: int) -> list[PlannedFile]:
        """Where everything goes.

        Args:
            tensors: In the order of the source.
            about: What a file says that holds the tensors of these names.
            shard_size: Bytes that a file of a folder may have, if it has more than one tensor.

        Raises:
            ExportError: A name or dtype cannot be stored, or is there twice.
        """


def of(path: Path) -> str:
    """Name of the container for an output.

    A dot before a digit begins no suffix: models are called ``Qwen2.5-0.5B``.

    Raises:
        ExportError: No container has such a suffix.
    """
    kinds = {name: cast(Container, module) for name, module in discover(__name__).items()}
    suffix = "" if path.suffix[1:2].isdigit() else path.suffix.lower()
    for name, kind in kinds.items():
        if suffix in kind.SUFFIXES:
            return name
    raise ExportError(
        f"{path} has the suffix {path.suffix}, and sift convert does not write such a file",
        hint=f"name it {suffixes(tuple(kinds))}",
    )


def suffixes(containers: Sequence[str]) -> str:
    """The suffixes of some containers, for people."""
    found = [suffix for name in containers if name in names(__name__) for suffix in get(name).SUFFIXES]
    return ", ".join(filter(None, found)) + (", or without a suffix for a folder" if "" in found else "")


def get(name: str) -> Container:
    return cast(Container, discover(__name__)[name])
