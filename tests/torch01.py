"""``torch.save`` as the first releases of PyTorch 0.1 had it, written from its format: a tar file of four members."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch


def save(root: Any, views: Sequence[torch.Tensor] = (), protocol: int = 2) -> bytes:
    """A file with ``root``; each tensor of ``views`` has a storage that is a view of the one that it lies in."""
    return archive(members(root, views, protocol))


def members(root: Any, views: Sequence[torch.Tensor] = (), protocol: int = 2) -> dict[str, bytes]:
    """The contents of the four members, in the order of the file."""
    tensors: list[torch.Tensor] = []
    content = io.BytesIO()
    _Pickler(content, tensors, protocol).dump(root)

    roots: list[torch.Tensor] = []  # the first tensor of each storage
    for tensor in tensors:
        if not any(_same_storage(tensor, one) for one in roots):
            roots.append(tensor)
    storages = [pickle.dumps(len(roots), protocol)]
    for number, tensor in enumerate(roots):
        whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        storages.append(pickle.dumps((_STORAGES + number, "cpu", _class_of(tensor, "Storage")), protocol))
        storages.append(struct.pack("<q", whole.numel()) + whole.view(torch.uint8).numpy().tobytes())
    parts = []
    described = [pickle.dumps(len(tensors), protocol)]
    for number, tensor in enumerate(tensors):
        key = _STORAGES + next(i for i, one in enumerate(roots) if _same_storage(tensor, one))
        first = tensor.storage_offset()
        if any(tensor is one for one in views):
            last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
            parts.append((_VIEWS + number, key, first, last + 1))
            key, first = _VIEWS + number, 0
        described.append(pickle.dumps((_TENSORS + number, key, _class_of(tensor, "Tensor")), protocol))
        # PyTorch wrote its number of axes, 4 bytes, as 8.
        described.append(struct.pack("<iI", tensor.ndim, 0xDEADBEEF))
        described.append(struct.pack(f"<{2 * tensor.ndim + 1}q", *tensor.shape, *tensor.stride(), first))
    storages.append(pickle.dumps(parts, protocol))
    machine = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    return {
        "sys_info": pickle.dumps(machine, protocol),
        "pickle": content.getvalue(),
        "tensors": b"".join(described),
        "storages": b"".join(storages),
    }


def archive(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1484000000.25  # type: ignore[assignment] # makes an extended header
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


#: Keys were addresses.
_TENSORS, _STORAGES, _VIEWS = 94_000_000_000_000, 94_100_000_000_000, 94_200_000_000_000


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, tensors: list[torch.Tensor], protocol: int) -> None:
        super().__init__(file, protocol)
        self._tensors = tensors

    def persistent_id(self, value: Any) -> str | None:
        if not isinstance(value, torch.Tensor) or isinstance(value, torch.nn.Parameter):
            return None
        if not any(value is one for one in self._tensors):
            self._tensors.append(value)
        return str(_TENSORS + next(i for i, one in enumerate(self._tensors) if one is value))

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.nn.Parameter):  # whether it needs a gradient, whether it is volatile, its hooks
            return type(value), (value.data,), (True, False, OrderedDict())
        return NotImplemented


def _same_storage(one: torch.Tensor, other: torch.Tensor) -> bool:
    places = [tensor.untyped_storage().data_ptr() for tensor in (one, other)]
    return one is other or places[0] == places[1] != 0


def _class_of(tensor: torch.Tensor, kind: str) -> type:
    found: type = getattr(torch, tensor.type().removeprefix("torch.").replace("Tensor", kind))
    return found
