"""Tensors that a model has under several names, and files that have them under one."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn


def tied(module: nn.Module, preferred: Collection[str] = ()) -> dict[str, str]:
    """Name → the name to store it under, for every name of the state_dict whose tensor has another one too.

    Args:
        module: The module.
        preferred: Of a tensor's names the one among these is stored; else its first.
    """
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            names.setdefault(id(tensor), []).append(name)
    stored: dict[str, str] = {}
    for same in names.values():
        keep = next((name for name in same if name in preferred), same[0])
        stored |= {name: keep for name in same if name != keep}
    return stored


def tie(module: nn.Module, names: dict[str, str]) -> None:
    """Make the tensors of :func:`tied` one again, after those that were stored have been set."""
    for name, stored in names.items():
        path, _, key = stored.rpartition(".")
        source = module.get_submodule(path)
        path, _, own = name.rpartition(".")
        holder = module.get_submodule(path)
        if key in source._parameters:
            holder._parameters[own] = source._parameters[key]
        else:
            holder._buffers[own] = source._buffers[key]
