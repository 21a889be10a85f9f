"""Write a dense view of a checkpoint by ``torch.save``, in the structure that its file has.

torch.save takes everything at once: what is not changed stays mapped from the file, and the weights that had a mask
are in memory together.
"""

from __future__ import annotations

import errno
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from sift_cli.checkpoint.dense import DenseView
from sift_cli.checkpoint.torch_arrays import from_numpy
from sift_cli.checkpoint.unwrap import WRAPPERS, unwrap
from sift_cli.errors import CheckpointError, ModelError
from sift_cli.export import optimizer_state

Optimizer = Literal["reset", "carry"]
#: What Cerebras and the Sparse-IFT authors store about their masks beside the model.
_ABOUT_MASKS = ("sparsity", "mask_optimizer")
#: Where what the checkpoint was is stored in one that has more in it than the weights.
ABOUT = "densified"


def write(
    path: Path, view: DenseView, about: Mapping[str, Any], *, optimizer: Optimizer, allow_pickle: bool = False
) -> None:
    """Write ``view`` to exactly ``path``: as the checkpoint it was, or as a state_dict where it was no file of torch's.

    In a checkpoint epochs, schedulers and arguments stay, and ``about`` is added. Masks and what else was said of
    them go, and so does a second copy of the weights such as an average.

    Args:
        optimizer: "carry" keeps an optimizer's state, 0 where a weight had no mask to keep it; "reset" empties it and
            keeps the learning rates and other options.
        allow_pickle: Load a checkpoint that runs code.

    Raises:
        CheckpointError: There is more in the checkpoint than plain data.
        ModelError: There is no optimizer's state to carry, or it is not clear to which weight it belongs.
    """
    root = _root(view, allow_pickle)
    rest = {key: value for key, value in (root or {}).items() if key not in _ABOUT_MASKS}
    optimizers = list(optimizer_state.found(rest))
    if optimizer == "carry" and not optimizers:
        raise ModelError(f"{view.path} has no state of an optimizer to carry", hint="leave out --optimizer carry")
    if root is None:
        root = {name: from_numpy(view.read(name)) for name in view.tensors}
    elif _weights(root, view):
        root[ABOUT] = dict(about)
    for state in optimizers:
        state.pop("sparsity", None)
        if optimizer == "carry":
            optimizer_state.carry(state, view)
        else:
            state["state"] = {}
    try:
        torch.save(root, path)
    except RuntimeError as error:  # torch's writer does not pass on what the system said
        raise OSError(errno.EIO, "torch.save could not write all of it; is the disk full?") from error


def _root(view: DenseView, allow_pickle: bool) -> dict[str, Any] | None:
    """What torch.save was given, or None where the file is of another kind or holds a module."""
    if view.format not in ("torch_zip", "torch_legacy") or view.module is not None:
        return None
    mapped = view.format == "torch_zip"
    try:
        root = torch.load(view.path, map_location="cpu", mmap=mapped, weights_only=not allow_pickle)
    except Exception as error:  # what a damaged file makes torch raise is written down nowhere
        unsafe = isinstance(error, pickle.UnpicklingError)
        why = "has more beside its weights than plain data" if unsafe else f"cannot be loaded by torch: {error}"
        raise CheckpointError(
            f"{view.path} {why}",
            hint="name a .safetensors file, which takes the weights alone; or, if you trust it, pass --allow-pickle",
        ) from None
    return root if isinstance(root, dict) else None


def _weights(root: dict[str, Any], view: DenseView) -> bool:
    """Put the tensors of ``view`` into the mapping that has the weights; whether that is a part of ``root`` only."""
    state = unwrap(root, _mapping, lambda value: isinstance(value, torch.Tensor))
    dense = {name: from_numpy(view.read(name)) if name in view.masked else state.tensors[name] for name in view.tensors}
    others = {key: value for key, value in state.holder.items() if key not in state.tensors}
    state.holder.clear()  # in place: its class and its attribute _metadata stay
    state.holder.update({**dense, **others})
    if state.holder is root:
        return False
    kept = state.wrapper.split(".")[0] if state.wrapper else ""
    for key in list(root):
        second = key in WRAPPERS and key != kept and isinstance(root[key], Mapping)
        if second or key in _ABOUT_MASKS:
            del root[key]
    return True


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    return value if isinstance(value, Mapping) else None
