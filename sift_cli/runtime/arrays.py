"""Inputs from ``.npy`` files and outputs into them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sift_cli.errors import Malformed, ModelError, OutputUnwritable, Unreadable
from sift_cli.runtime.sessions import random_inputs

if TYPE_CHECKING:
    import onnxruntime


def make_inputs(
    texts: Sequence[str], opened: onnxruntime.InferenceSession, *, batch: int, seed: int
) -> dict[str, np.ndarray]:
    """Arrays for a session's inputs.

    Args:
        texts: ``FILE.npy``, or ``SHAPE`` (``1x128x768``) of a random one, behind ``NAME=`` where there are several
            inputs. Those that are not named are random, as :func:`~sift_cli.runtime.random_inputs` makes them.
        opened: The session.
        batch, seed: Of random inputs; a shape says its batch itself.

    Raises:
        Unreadable, Malformed: A file cannot be read, or is no array of numbers.
        ModelError: The model has no such input, or wants another shape.
    """
    wanted = {node.name: node for node in opened.get_inputs()}
    arrays: dict[str, np.ndarray] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, file = text.rpartition("=")
        if not name:
            if len(wanted) > 1:
                raise ModelError(
                    f"the model has {len(wanted)} inputs", hint=f"write --input {next(iter(wanted))}={file}"
                )
            name = next(iter(wanted))
        if name not in wanted:
            raise ModelError(f"the model has no input {name!r}", hint=f"it has: {', '.join(wanted)}")
        if name in shapes:
            raise ModelError(f"input {name!r} is given twice")
        if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", file) and not Path(file).exists():
            shapes[name] = tuple(map(int, file.split("x")))
        else:
            arrays[name] = _read(file)
            shapes[name] = arrays[name].shape
        if not fits(shapes[name], shape := wanted[name].shape):
            raise ModelError(f"input {name!r} takes the shape {shape}, and {file} has {list(shapes[name])}")
    return {**random_inputs(opened, batch=batch, seed=seed, shapes=shapes), **arrays}


def fits(given: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    """Whether an array of the shape ``given`` is one for an input of the shape ``wanted``, where names are any size."""
    return len(given) == len(wanted) and all(
        not isinstance(want, int) or want == have for want, have in zip(wanted, given, strict=True)
    )


def _read(file: str) -> np.ndarray:
    try:
        array = np.load(file, allow_pickle=False)
    except OSError as error:
        raise Unreadable(file, error.strerror or str(error)) from None
    except (ValueError, EOFError):
        why = "it is cut off, or no array of numbers"
        raise Malformed(file, "its header", why, hint="write it by numpy.save") from None
    if not isinstance(array, np.ndarray):
        raise Malformed(file, "its header", "it is an archive and not one array")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def check_suffix(path: Path) -> None:
    """Refuse a file that outputs cannot be written to.

    Raises:
        OutputUnwritable: Its suffix is neither ``.npy`` nor ``.npz``.
    """
    if path.suffix not in (".npy", ".npz"):
        raise OutputUnwritable(path, "outputs are written to a .npy or a .npz")


def write_outputs(outputs: Mapping[str, np.ndarray], suffix: str, path: Path) -> None:
    """Write the first output (``.npy``) or all of them (``.npz``) to exactly ``path``."""
    with open(path, "wb") as file:
        if suffix == ".npy":
            np.save(file, next(iter(outputs.values())))
        else:
            np.savez(file, allow_pickle=False, **dict(outputs))
