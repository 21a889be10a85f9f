"""What is asked of a conversion, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sift_cli.core.half import Storage

#: What is being done, bytes of all tensors that are done, and of how many, dense.
Progress = Callable[[Literal["looking", "writing", "verifying"], int, int], None]
SHARD_SIZE = 5 * 10**9


@dataclass(frozen=True)
class Converted:
    """A file or folder that was written.

    Attributes:
        path: The file or folder.
        encoding: How its masked tensors are stored.
        tensors: Number of tensors.
        masked: Number of those that are stored with a mask.
        dropped: Number of those whose mask the encoding does not keep.
        source_bytes, bytes: What all tensors take in the source and here, without headers.
        verified: Whether every tensor and mask was read back and compared.
        resumed: Number of tensors that an earlier, interrupted run had written.
        not_compared: Why the outputs of an ONNX model were not compared; None where they were, or where there are none.
    """

    path: Path
    encoding: str
    tensors: int
    masked: int
    dropped: int
    source_bytes: int
    bytes: int
    verified: bool
    resumed: int
    not_compared: str | None = None

    def to_json(self) -> dict[str, Any]:
        facts = asdict(self)
        return {"schema": "sift.convert/1", "output": str(facts.pop("path")), **facts}


@dataclass(frozen=True)
class Options:
    """How to convert.

    Attributes:
        encoding: A plug-in of :mod:`sift_cli.conversion.encodings`.
        container: A plug-in of :mod:`sift_cli.conversion.containers`.
        dtype: What floating-point tensors become; None leaves them.
        rename: Regular expressions and their replacements, for the names of tensors.
        shard_size: Bytes that a file of a folder may have.
        min_sparsity: Share of zeros from which on a matrix without a mask gets one of its zeros; None leaves it to the
            encoding.
        pruned_nan: NaN in a matrix stands for a pruned weight.
    """

    encoding: str
    container: str
    dtype: Storage | None = None
    rename: tuple[tuple[str, str], ...] = ()
    shard_size: int = SHARD_SIZE
    min_sparsity: float | None = None
    pruned_nan: bool = False
