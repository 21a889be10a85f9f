"""What a file has to keep to, from a table of a configuration or from the options of the command line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from sift_cli.budgets.units import parse_bytes, parse_count, parse_share, parse_tolerance, shown
from sift_cli.errors import ConfigError

#: What a baseline saves of a file, and a tolerance is for. Of each, more is worse.
FIGURES = ("size", "macs", "params", "nonzero")


@dataclass(frozen=True)
class Budget:
    """Limits on one file; those that are None are not checked.

    Attributes:
        max_size: Bytes on disk, external data too.
        max_flops, max_macs: FLOPs (2 × MACs) and MACs of one forward pass of one sample, kept weights only.
        max_params: Elements of all tensors.
        min_sparsity: Share of the weights that are masked or 0, in [0, 1).
        iso_flop_of: File or architecture that the file has to cost as much as.
        same_output_as: ONNX file that the file has to compute the same as.
        arch: Architecture of a checkpoint, where it is not recognised.
        input: Shape of the example input.
        dims: Sizes of symbolic dimensions of an ONNX file.
        tolerance: By what part each of :data:`FIGURES` may be more than the baseline has it.
    """

    max_size: int | None = None
    max_flops: int | None = None
    max_macs: int | None = None
    max_params: int | None = None
    min_sparsity: Fraction | None = None
    iso_flop_of: str | None = None
    same_output_as: str | None = None
    arch: str | None = None
    input: tuple[int, ...] | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    tolerance: Mapping[str, Fraction] = field(default_factory=dict)

    @property
    def limits(self) -> bool:
        """Whether there is anything to check without a baseline."""
        return any(getattr(self, name) is not None for name in _LIMITS)

    def __or__(self, settings: Mapping[str, Any]) -> Budget:
        """With the values of :func:`read` in the place of these."""
        return Budget(**{**vars(self), **settings})


_LIMITS = (
    "max_size", "max_flops", "max_macs", "max_params", "min_sparsity", "iso_flop_of", "same_output_as",
)  # fmt: skip


def read(table: Mapping[str, Any], folder: Path, at: str) -> dict[str, Any]:
    """Values by the names of :class:`Budget`'s attributes.

    Args:
        table: Keys as they are written, ``max-size`` and so on.
        folder: What paths in the values are relative to.
        at: What a message calls the table, "" for the options of the command line.

    Raises:
        ConfigError: A key is unknown, or its value is none that it can have.
    """
    known(table, KEYS, at or "options")
    prefix = f"{at}: " if at else "--"
    values = {key.replace("-", "_"): KEYS[key](value, f"{prefix}{key}") for key, value in table.items()}
    if "iso_flop_of" in values and not _architecture(values["iso_flop_of"], folder):
        values["iso_flop_of"] = os.path.relpath(folder / values["iso_flop_of"])
    if "same_output_as" in values:
        values["same_output_as"] = os.path.relpath(folder / values["same_output_as"])
    return values


def known(table: Mapping[str, Any], keys: Collection[str], at: str) -> None:
    """Refuse keys that nobody reads.

    Raises:
        ConfigError: There is one; the hint names the nearest key that there is.
    """
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(key.replace("_", "-").lower(), keys, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(keys)}"
            raise ConfigError(f"{at}: nothing is called {shown(key)}", hint=hint)


def parse_tolerances(value: object, at: str) -> dict[str, Fraction]:
    """One tolerance for all figures, or a table with one for each."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(FIGURES, parse_tolerance(value, at))
    known(value, FIGURES, at)
    return {figure: parse_tolerance(one, f"{at}.{figure}") for figure, one in value.items()}


def text(value: object, at: str) -> str:
    """A text that can be a path, a name or a pattern."""
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > 4096:
        raise ConfigError(f"{at}: {shown(value)} is no text that can stand there")
    return value


def _shape(value: object, at: str) -> tuple[int, ...]:
    parts = value.replace(",", "x").split("x") if isinstance(value, str) else value
    if isinstance(parts, list | tuple) and 0 < len(parts) <= 8:
        sizes = [str(part).strip() for part in parts if isinstance(part, str) or type(part) is int]
        if len(sizes) == len(parts) and all(size.isascii() and size.isdigit() and len(size) < 10 for size in sizes):
            return tuple(map(_positive, sizes, [at] * len(sizes)))
    raise ConfigError(f"{at}: {shown(value)} is no shape", hint="write it as 1x3x224x224")


def _positive(size: str, at: str) -> int:
    if int(size) < 1:
        raise ConfigError(f"{at}: a size is at least 1")
    return int(size)


def _dims(value: object, at: str) -> dict[str, int]:
    if not isinstance(value, Mapping) or not all(type(size) is int and 0 < size < 2**31 for size in value.values()):
        raise ConfigError(f"{at}: {shown(value)} is no table of sizes", hint="write it as {sequence = 128}")
    return dict(value)


def _architecture(value: str, folder: Path) -> bool:
    """Whether it is one, such as torchvision:resnet18, and no path."""
    return ":" in value and not os.path.exists(folder / value)


KEYS: dict[str, Callable[[object, str], Any]] = {
    "max-size": parse_bytes,
    "max-flops": parse_count,
    "max-macs": parse_count,
    "max-params": parse_count,
    "min-sparsity": parse_share,
    "iso-flop-of": text,
    "same-output-as": text,
    "arch": text,
    "input": _shape,
    "dims": _dims,
    "tolerance": parse_tolerances,
}
