"""TorchScript: a zip file with the module's attributes as a pickle and its code as text.

Nothing of it is run. ``torch.jit.load`` would run the modules' ``__setstate__``, and TorchScript can open files; the
code is looked at only for the names that each class lists as parameters and buffers, since its other tensors are
constants.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from sift_cli.checkpoint import _pickle, _zip, torch_objects
from sift_cli.checkpoint._bytes import most_items, opened
from sift_cli.checkpoint._pickle import Call
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.strided import Stored, StridedCheckpoint
from sift_cli.errors import CheckpointError, Malformed

_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = \[([^\]\n]*)\]\n  __buffers__ = \[([^\]\n]*)\]", re.MULTILINE
)
_NAME = re.compile(r'"([^"]*)"')
#: Modules may be shared, and a hostile pickle shares them at every level, which makes 2^depth paths. Bounded are their
#: attributes and the letters of their names.
_MAX_ATTRIBUTES, _MAX_LETTERS = 1_000_000, 2**26
_MAX_DEPTH = 200


def sniff(head: bytes, path: Path) -> bool:
    return _zip.kind(head, path) == "torchscript"


def open(path: Path) -> Checkpoint:
    with opened(path) as file:
        archive = _zip.Archive(file)
        root = _zip.root(path, archive.names, "data.pkl")
        try:
            module = _pickle.load(io.BytesIO(archive.read(f"{root}data.pkl")), most_items(file.size)).value
        except ValueError as error:
            raise Malformed(path, f"record '{root}data.pkl'", str(error)) from None

        def place(storage: torch_objects.StorageRef) -> tuple[int, int]:
            return archive.place(f"{root}data/{storage.key}")

        listed = _Listed(archive, root)
        tensors: dict[str, Stored] = {}
        ignored: list[str] = []
        for name, value, wanted in _attributes(path, module, listed):
            if wanted:
                tensors[name] = torch_objects.tensor(path, name, value, place)
            else:
                ignored.append(name)
        if not tensors:
            raise CheckpointError(f"{path}: it holds no parameters and no buffers")
        return StridedCheckpoint(file, "torchscript", tensors, ignored=tuple(ignored))


class _Listed:
    """Names of the parameters and buffers of a class, from its code."""

    def __init__(self, archive: _zip.Archive, root: str) -> None:
        self._archive = archive
        self._root = root
        self._files: dict[str, dict[str, set[str]]] = {}

    def __getitem__(self, cls: str) -> set[str]:
        module, _, name = cls.rpartition(".")
        if module not in self._files:
            record = f"{self._root}code/{module.replace('.', '/')}.py"
            text = self._archive.inflate(record).decode("utf-8", "replace") if record in self._archive.names else ""
            self._files[module] = {
                found: set(_NAME.findall(parameters) + _NAME.findall(buffers))
                for found, parameters, buffers in _CLASS.findall(text)
            }
        return self._files[module].get(name, set())


def _attributes(path: Path, module: object, listed: _Listed) -> list[tuple[str, Call, bool]]:
    """Every tensor of ``module`` and its submodules: its name, its record, whether it is a parameter or buffer.

    A module's own tensors come before its children's, as in its state_dict.
    """
    found: list[tuple[str, Call, bool]] = []
    pending = [("", module)]
    attributes = letters = 0
    while pending:
        prefix, current = pending.pop()
        if not isinstance(current, Call) or not isinstance(current.state, dict):
            continue
        state = {key: value for key, value in current.state.items() if isinstance(key, str)}
        attributes += len(current.state) + 1
        letters += sum(len(prefix) + len(key) for key in state)
        if attributes > _MAX_ATTRIBUTES or letters > _MAX_LETTERS or prefix.count(".") > _MAX_DEPTH:
            raise Malformed(path, "its modules", "they contain one another without end")
        wanted = listed[current.name]
        children = []
        for key, value in state.items():
            if torch_objects.is_tensor(value):
                found.append((f"{prefix}{key}", value, key in wanted))
            elif isinstance(value, Call) and value.name.startswith("__torch__."):
                children.append((f"{prefix}{key}.", value))
        pending += reversed(children)
    return found
