"""How a file says which weights exist: one module a way, for tensors with a mask. All others are stored as they are.

Every module here offers :class:`Encoding`. What the arrays of a file look like is known before any of them is written:
:meth:`Encoding.parts` tells it from the mask, and :meth:`Encoding.encode` makes them piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPES, TensorSpec
from sift_cli.errors import PlanError
from sift_cli.registry import discover, names


class Array(NamedTuple):
    """An array of a file before its bytes are there: element type, spelled as in safetensors, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Encoded:
    """A tensor with a mask as it will lie in a file.

    Attributes:
        spec: The tensor: its name, dense shape and element type there.
        parts: Its arrays by their names in the file.
        nonzero: Number of weights that its mask keeps.
        rule, seed: How the mask was chosen, see :class:`~sift_cli.core.masks.Mask`.
        scheme: What the encoding chose for this tensor, where it has more than one way.
        whole: Whether the reader of one file puts the parts together, so that the index of a folder names the tensor.
    """

    spec: TensorSpec
    parts: Mapping[str, Array]
    nonzero: int
    rule: str
    seed: int | None
    scheme: str = ""
    whole: bool = False

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())


@dataclass(frozen=True)
class About:
    """What a file says of its tensors as a whole.

    Attributes:
        metadata: Strings for the metadata of a safetensors file.
        wrapper: Key under which readers look for the weights in a file of ``torch.save``; None where it has them alone.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    wrapper: str | None = None


class Encoding(Protocol):
    #: Containers that can hold it, the plug-ins of :mod:`sift_cli.conversion.containers`.
    CONTAINERS: tuple[str, ...]
    #: Whether a matrix without a mask gets one of its zeros where it is smaller with it.
    OF_ZEROS: bool
    #: Whether NaN are the mask, so that a tensor without one must not have any.
    IN_NAN: bool

    @staticmethod
    def parts(spec: TensorSpec, mask: Mask) -> Encoded | None:
        """How ``spec`` is stored under ``mask``; None where it is better or has to be stored dense, without a mask.

        Raises:
            ExportError: It cannot be stored, and storing it dense would lose the mask.
        """

    @staticmethod
    def encode(encoded: Encoded, values: np.ndarray, mask: Mask) -> Iterator[tuple[str, np.ndarray]]:
        """Name of a part and the elements that follow those it has already, until all are there.

        Args:
            encoded: What :meth:`parts` said.
            values: ``encoded.spec``'s shape and element type, +0 where the mask keeps nothing.
            mask: The same one.
        """

    @staticmethod
    def about(encoded: Mapping[str, Encoded]) -> About:
        """What a file with these tensors says of them; by the names of the tensors, empty for a dense file."""

    @staticmethod
    def config(config: dict[str, Any], encoded: Mapping[str, Encoded]) -> dict[str, Any]:
        """The ``config.json`` of a folder with these tensors, from the source's without what that says of encodings."""


def get(name: str) -> Encoding:
    """The encoding ``name``.

    Raises:
        PlanError: There is none.
    """
    if name not in names(__name__):
        known = ", ".join(names(__name__)).replace("_", "-")
        raise PlanError(f"there is no encoding {name!r} of tensors", hint=f"choose one of {known} (--to)")
    return cast(Encoding, discover(__name__)[name])
