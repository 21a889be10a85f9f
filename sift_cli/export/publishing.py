"""Where an artifact goes: one file, or for a model of transformers a folder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from sift_cli.checkpoint.folder import MASKS
from sift_cli.core.files import atomic, atomic_folder

#: Names that end so are files.
FILES = (".safetensors", ".onnx", ".pt", ".pth", ".bin")


def is_folder(output: Path, source: str | Path) -> bool:
    """Whether an output by this name is a folder: what ``source`` names is one, or has the configuration for one, and
    the output has no file's suffix."""
    return output.suffix not in FILES and (Path(source).is_dir() or str(source).startswith("transformers:"))


def companions_of(source: str | Path) -> Path | None:
    """The folder that ``source`` names, which may have a tokenizer in it."""
    folder = Path(str(source).removeprefix("transformers:"))
    return folder if folder.is_dir() else None


def published(output: Path, *, folder: bool, force: bool) -> AbstractContextManager[Path]:
    """A temporary file or folder that gets its name when the block ends well; see :mod:`sift_cli.core.files` for what
    is refused before any work is done."""
    return atomic_folder(output, ours=MASKS, force=force) if folder else atomic(output, force=force)
