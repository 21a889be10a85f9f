"""Pickles that the user has allowed to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sift_cli.checkpoint import mask_optimizer
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.torch_arrays import to_numpy
from sift_cli.checkpoint.torch_sparse import TorchSparse
from sift_cli.checkpoint.unwrap import StateDict, unwrap
from sift_cli.compat import import_torchvision
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPE_NAMES, TensorSpec
from sift_cli.errors import CheckpointError, Malformed, SiftError

if TYPE_CHECKING:
    import torch

_SPARSE = "torch.sparse_"


def open_live(path: Path, format: str) -> Checkpoint:
    """Unpickle ``path`` with torch, running whatever code it asks for.

    Raises:
        CheckpointError: The code it needs is not there or fails, or it leaves no tensors.
    """
    import torch

    try:
        try:
            root = torch.load(path, map_location="cpu", weights_only=False)
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            import_torchvision("this pickle")  # it holds a model of torchvision's or timm's
            root = torch.load(path, map_location="cpu", weights_only=False)
    except SiftError:
        raise
    except Exception as error:  # a pickle runs anything, so it may raise anything
        raise CheckpointError(
            f"{path} cannot be unpickled: {type(error).__name__}: {error}",
            hint="run sift where the classes the file names can be imported",
        ) from None

    def as_mapping(value: Any) -> Mapping[Any, Any] | None:
        if isinstance(value, torch.nn.Module):
            return value.state_dict()
        return value if isinstance(value, Mapping) else None

    def is_tensor(value: Any) -> bool:
        return isinstance(value, torch.Tensor)

    try:
        state = unwrap(root, as_mapping, is_tensor)
        return _Live(path, format, state, lambda: mask_optimizer.masks(root, as_mapping, is_tensor))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _sparse(tensor: torch.Tensor) -> TorchSparse:
    """A sparse tensor of torch's as arrays; elements that are there several times are added up, as torch means them.

    Raises:
        ValueError: sift reads no such layout or element type.
    """
    layout, plain = str(tensor.layout).removeprefix(_SPARSE), tensor.detach()
    indices: tuple[torch.Tensor, ...]
    if layout == "coo":
        plain = plain.coalesce()
        indices = (plain.indices(),)
    elif layout in ("csr", "bsr"):
        indices = (plain.crow_indices(), plain.col_indices())
    else:
        indices = (plain.ccol_indices(), plain.row_indices())
    return TorchSparse.checked(
        layout, tuple(plain.shape), tuple(to_numpy(index) for index in indices), to_numpy(plain.values())
    )


class _Live(Checkpoint):
    def __init__(
        self, path: Path, format: str, state: StateDict, masks_apart: Callable[[], dict[str, Any]] = dict
    ) -> None:
        from torch import nn

        self._masks_apart = masks_apart
        self.path, self.format, self.metadata = path, format, {}
        self.wrapper, self.ignored = state.wrapper, state.ignored
        self.module = state.holder if isinstance(state.holder, nn.Module) else None
        self._live = state.tensors
        self._sparse: dict[str, TorchSparse] = {}
        self.tensors = {}
        for name, tensor in state.tensors.items():
            try:
                if str(tensor.layout).startswith(_SPARSE):
                    self._sparse[name] = _sparse(tensor)
                    self.tensors[name] = self._sparse[name].spec(name)
                    continue
                dtype = DTYPE_NAMES[to_numpy(tensor[:0] if tensor.ndim else tensor).dtype]
            except ValueError as error:
                raise CheckpointError(f"{path}: tensor {name!r}: {error}") from None
            self.tensors[name] = TensorSpec(name, tuple(tensor.shape), dtype, tensor.nbytes)

    def _read(self, name: str) -> np.ndarray:
        return self._sparse[name].read(np.asarray) if name in self._sparse else to_numpy(self._live[name])

    def _mask(self, name: str) -> Mask | None:
        return self._sparse[name].mask(np.asarray) if name in self._sparse else None

    def masks_apart(self) -> Checkpoint | None:
        try:
            found = self._masks_apart()
        except ValueError as error:
            raise Malformed(self.path, "its masks", str(error)) from None
        return _Live(self.path, self.format, StateDict(found, None, (), None)) if found else None
