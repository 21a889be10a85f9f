"""A folder as transformers writes it: weights in one file or in shards with an index, and sift's masks beside them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sift_cli.checkpoint import mask_file
from sift_cli.checkpoint._bytes import ByteFile, most_items
from sift_cli.checkpoint._json import loads
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.core.masks import Mask, MaskSet
from sift_cli.core.tensors import TensorSpec
from sift_cli.errors import CheckpointError, Malformed, Unreadable

#: Weights, the first of these that is there.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
#: Masks, plan and certificate of a model that sift transformed.
MASKS = "sift.safetensors"
#: What belongs to a model beside its weights and its configuration: how text, images and sound become its inputs, and
#: how it is made to speak.
COMPANIONS = (
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("tokenizer.model", "source.spm", "target.spm", "chat_template.jinja", "chat_template.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "LICENSE", "LICENSE.txt"),
)


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights, after the index if there is one.

    Raises:
        Unreadable: There are none, or the index cannot be read.
        Malformed: The index is none.
    """
    for name in WEIGHTS:
        path = folder / name
        if path.is_file():
            check_inside(path)
            return [path, *dict.fromkeys(_index(path).values())] if name.endswith(".json") else [path]
    raise Unreadable(
        folder, f"it is a folder without {WEIGHTS[0]} or {WEIGHTS[2]}", hint="name the checkpoint file inside it"
    )


def check_inside(path: Path) -> None:
    """Refuse a file of a folder that is a link to a file outside of the folder.

    Links to ``../../blobs`` are how the cache of huggingface_hub keeps a file of several versions once.

    Raises:
        Malformed: It is one.
    """
    try:
        folder, target = path.parent.resolve(), path.resolve()
    except (OSError, RuntimeError):  # a link to itself
        raise Malformed(path.parent, path.name, "it is a link to nothing") from None
    cached = folder.parent.name == "snapshots" and target.parent == folder.parent.parent / "blobs"
    if not cached and not target.is_relative_to(folder):
        raise Malformed(
            path.parent, path.name, "it is a link to a file outside of the folder", hint="put a copy of that file there"
        )


def copy_companions(source: Path, folder: Path, more: tuple[str, ...] = ()) -> None:
    """Copy :data:`COMPANIONS` and ``more`` from one folder into another, as far as they are there.

    Raises:
        Malformed: See :func:`check_inside`.
    """
    for name in (*COMPANIONS, *more):
        if (source / name).is_file():
            check_inside(source / name)
            shutil.copyfile(source / name, folder / name)


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the lines "digest  name" for its configuration and weights."""
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = [one for one in (path / "config.json", *weight_files(path)) if one.is_file()]
    for one in files:
        check_inside(one)
    lines = "".join(f"{digest(one)}  {one.name}\n" for one in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def open_folder(folder: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open all of a folder's weights as one checkpoint.

    Raises:
        CheckpointError: See :func:`~sift_cli.checkpoint.open_checkpoint`; also a shard that is missing, that lies
            outside of the folder, or that lacks a tensor the index has it for; or a tensor that is in two shards.
    """
    from sift_cli.checkpoint import open_file

    files = weight_files(folder)
    opened: dict[Path, Checkpoint] = {}
    try:
        for path in files:
            if path.suffix != ".json":
                opened[path] = open_file(path, allow_pickle=allow_pickle)
        homes: dict[str, Checkpoint] = {}
        if files[0].suffix == ".json":
            for name, path in _index(files[0]).items():
                if name not in opened[path].tensors:
                    raise Malformed(path, f"tensor {name!r}", f"it is not there, and {files[0].name} says it is")
                homes[name] = opened[path]
        for path, one in opened.items():  # what the index does not list is part of the model, too, to transformers
            for name in one.tensors:
                if homes.setdefault(name, one) is not one:
                    raise Malformed(path, f"tensor {name!r}", f"another is in {homes[name].path.name}")
        masks: tuple[MaskSet, Mapping[str, str]] = MaskSet(), {}
        if (folder / MASKS).is_file():
            check_inside(folder / MASKS)
            masks = mask_file.read(folder / MASKS)
        return FolderCheckpoint(folder, homes, tuple(opened.values()), *masks)
    except CheckpointError:
        for one in opened.values():
            one.close()
        raise


class FolderCheckpoint(Checkpoint):
    """The weights of a folder, one after another, and the masks beside them.

    Attributes:
        masks: By the names that the model has for its parameters, which can differ from those in the files.
    """

    format = "folder"

    def __init__(
        self,
        path: Path,
        homes: Mapping[str, Checkpoint],
        opened: tuple[Checkpoint, ...],
        masks: MaskSet,
        metadata: Mapping[str, str],
    ) -> None:
        self.path, self.metadata, self.masks = path, metadata, masks
        self._homes, self._opened = homes, opened
        self.tensors = dict(self._specs())

    def _specs(self) -> Iterator[tuple[str, TensorSpec]]:
        for name, home in self._homes.items():
            spec, mask = home.tensors[name], self.masks.get(name)
            if mask is not None and mask.shape != spec.shape:
                raise Malformed(self.path / MASKS, f"the mask of {name!r}", f"it is {mask.shape} and not {spec.shape}")
            yield name, spec if mask is None else replace(spec, nonzero=mask.nonzero)

    def _read(self, name: str) -> np.ndarray:
        return self._homes[name].read(name)

    def _mask(self, name: str) -> Mask | None:
        return self.masks.get(name) or self._homes[name].mask(name)

    def file_of(self, name: str) -> Path:
        return self._homes[name].path

    def files(self) -> Sequence[Path]:
        masks = self.path / MASKS
        return [*weight_files(self.path), *([masks] if masks.is_file() else [])]

    def close(self) -> None:
        for one in self._opened:
            one.close()


def _index(path: Path) -> dict[str, Path]:
    """Tensor name → shard, which lies in the folder of the index."""
    file = ByteFile(path)
    try:
        data = file.read(0, file.size, "its JSON").tobytes()
    finally:
        file.close()
    try:
        weight_map = loads(data, most_items(len(data)))["weight_map"]
        items = dict(weight_map.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Malformed(path, "its JSON", str(error) if isinstance(error, ValueError) else "no weight_map") from None
    if not items:
        raise Malformed(path, "its weight_map", "it is empty")
    for name, shard in items.items():
        if not isinstance(shard, str) or not shard.strip(".") or Path(shard).name != shard or set(shard) & {"\\", "\0"}:
            raise Malformed(
                path, f"tensor {name!r}", f"its shard {str(shard)[:60]!r} is not the name of a file beside it"
            )
    shards = {shard: path.parent / shard for shard in dict.fromkeys(items.values())}
    for shard, file in shards.items():
        if shard.endswith(".json") or os.path.isdir(file):
            raise Malformed(path, "its weight_map", f"its shard {shard[:60]!r} is no file of tensors")
        check_inside(file)
    return {name: shards[shard] for name, shard in items.items()}
