"""``torch.save`` of the first releases of PyTorch 0.1: a tar file of four members, of which no pickle is run.

=============  =========================================================================================================
``sys_info``   a pickle of what machine wrote it
``pickle``     a pickle of the object, in which a tensor or storage is its key, an integer in decimal
``tensors``    how many there are, and of each a pickle of its key, its storage's key and its type; then its number of
               axes (4 bytes, and 4 that mean nothing), shape, strides and place of its first element (8 bytes each)
``storages``   how many there are, and of each a pickle of its key, device and type; then its number of elements (8
               bytes) and these; at the end a pickle of those that are views, each its key, the key of the storage that
               it is a part of, its first element and its number of elements
=============  =========================================================================================================

A tensor becomes the record that later versions write for it, so what holds of theirs holds of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sift_cli.checkpoint import _pickle, _tar, torch_objects
from sift_cli.checkpoint._bytes import ByteFile, Window, most_items, opened
from sift_cli.checkpoint._pickle import Call, Global, Persistent
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.errors import CheckpointError, Malformed, UnsafePickle

_MEMBERS = ("sys_info", "pickle", "tensors", "storages")
#: Instructions that the pickle of a tensor or a storage may have. It takes 12.
_ENTRY = 32
_MAX_NDIM = 64
_NOT_WRITTEN = "it has an entry that PyTorch does not write"
_T = TypeVar("_T")


def sniff(head: bytes, path: Path) -> bool:
    return _tar.is_tar(head)


def open(path: Path) -> Checkpoint:
    with opened(path) as file:
        return _opened(file)


def _opened(file: ByteFile) -> Checkpoint:
    members = {name: _Member(file, name, *place) for name, place in _tar.members(file, _MEMBERS).items()}
    for name in _MEMBERS[1:]:
        if name not in members:
            raise Malformed(file.path, "its members", f"it has no {name!r}")
    if "sys_info" in members:
        system = members["sys_info"].parsed(_Member.load)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise CheckpointError(f"{file.path} was written on a big-endian machine, which sift does not read")
    storages = members["storages"].parsed(_storages)
    tensors = members["tensors"].parsed(lambda member: _tensors(member, storages))

    def meant(reference: Persistent) -> Call | Persistent:
        match reference.id:
            case int() | str() as key if str(key) in tensors:
                return tensors[str(key)]
            case int() | str() as key if str(key) not in storages:
                raise ValueError(f"it refers to {str(key)[:40]!r}, which is no tensor or storage of the file")
        return reference  # a storage, or a tuple: a module's class, with its source

    root = members["pickle"].parsed(lambda member: member.load(meant=meant))
    places = {key: (one.start, one.nbytes) for key, one in storages.items()}
    return torch_objects.checkpoint(file, "torch_tar", root, lambda storage: places.get(storage.key, (0, 0)))


class _Member(Window):
    """A member of the file as a stream."""

    def __init__(self, file: ByteFile, name: str, start: int, size: int) -> None:
        super().__init__(file)
        self._path, self._at, self._end = file.path, f"its member {name!r}", start + size
        self._most = most_items(file.size)
        self.seek(start)

    def parsed(self, parse: Callable[[_Member], _T]) -> _T:
        """What ``parse`` makes of all of it.

        Raises:
            Malformed: It raises ValueError, or something is left.
        """
        try:
            result = parse(self)
            if self.tell() != self._end:
                raise ValueError("it goes on after its end")
            return result
        except ValueError as error:
            raise Malformed(self._path, self._at, str(error)) from None

    def load(self, most: int | None = None, meant: Callable[[Persistent], Any] = lambda one: one) -> Any:
        """The object of the pickle that is next.

        Raises:
            ValueError: It is none.
            UnsafePickle: It needs code.
        """
        pickle = _pickle.load(self, self._most if most is None else most, meant)
        if unsafe := torch_objects.unsafe(pickle.globals):
            raise UnsafePickle(self._path, unsafe)
        self.skip(0)
        return pickle.value

    def count(self) -> int:
        """How many entries follow, by the pickle that is next."""
        count = self.load(_ENTRY)
        if type(count) is not int or not 0 <= count <= self._most // _ENTRY:
            raise ValueError("it does not say how many entries it has")
        return count

    def take(self, count: int) -> bytes:
        start = self.tell()
        self.skip(count)
        self.seek(start)
        return self.read(count)

    def skip(self, count: int) -> None:
        if self.tell() + count > self._end:
            raise ValueError("it ends too early")
        self.seek(self.tell() + count)


@dataclass(frozen=True)
class _Storage:
    """A storage.

    Attributes:
        reference: What a pickle of later versions has for it.
        count: Number of elements.
        itemsize: Bytes of each.
        start: First byte in the file.
    """

    reference: Persistent
    count: int
    itemsize: int
    start: int

    @classmethod
    def of(cls, kind: Global, key: object, count: int, start: int) -> _Storage:
        reference = Persistent(("storage", kind, str(key), None, count, None))
        dtype = torch_objects.storage_ref(reference).dtype
        if dtype is None:
            raise ValueError(_NOT_WRITTEN)
        return cls(reference, count, dtype.itemsize, start)

    @property
    def nbytes(self) -> int:
        return self.count * self.itemsize


def _storages(member: _Member) -> dict[str, _Storage]:
    found: dict[str, _Storage] = {}

    def add(kind: Global, key: int, count: int, start: int) -> _Storage:
        if str(key) in found:
            raise ValueError(f"it has the key {key} twice")
        return found.setdefault(str(key), _Storage.of(kind, key, count, start))

    for _ in range(member.count()):
        match member.load(_ENTRY):
            case (int() as key, _, Global() as kind):
                count = int.from_bytes(member.take(8), "little", signed=True)
                member.skip(add(kind, key, count, member.tell()).nbytes)
            case _:
                raise ValueError(_NOT_WRITTEN)
    views = member.load()
    for view in views if isinstance(views, list) else (None,):
        match view:
            case (int() as key, int() as root, int() as first, int() as count) if str(root) in found:
                whole = found[str(root)]
                if first < 0 or first + count > whole.count:
                    raise ValueError("a view lies outside of its storage")
                add(whole.reference.id[1], key, count, whole.start + first * whole.itemsize)
            case _:
                raise ValueError(_NOT_WRITTEN)
    return found


def _tensors(member: _Member, storages: Mapping[str, _Storage]) -> dict[str, Call]:
    found: dict[str, Call] = {}
    for _ in range(member.count()):
        entry = member.load(_ENTRY)
        (ndim,) = struct.unpack("<i4x", member.take(8))
        if not 0 <= ndim <= _MAX_NDIM:
            raise ValueError(f"it has a tensor of {ndim} axes")
        *axes, first = struct.unpack(f"<{2 * ndim + 1}q", member.take(16 * ndim + 8))
        shape, strides = tuple(axes[:ndim]), tuple(axes[ndim:])
        match entry:
            case (int() as key, int() as stored, Global()) if str(stored) in storages:
                reference = storages[str(stored)].reference
            case (int() as key, None, Global(name=kind)) if not ndim:  # of no elements; numbers had one axis
                reference = _Storage.of(Global(kind.replace("Tensor", "Storage")), "", 0, 0).reference
                shape, strides = (0,), (1,)
            case _:
                raise ValueError(_NOT_WRITTEN)
        if str(key) in storages or str(key) in found:
            raise ValueError(f"it has the key {key}, which is there twice")
        found[str(key)] = Call("torch._utils._rebuild_tensor", (reference, first, shape, strides))
    return found
