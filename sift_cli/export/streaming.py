"""Write a checkpoint as safetensors one tensor at a time: it takes the memory of the largest tensor and not of all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from sift_cli.checkpoint import mask_file, safetensors_header
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.folder import MASKS, WEIGHTS, copy_companions
from sift_cli.errors import ExportError


def write_file(
    path: Path, checkpoint: Checkpoint, metadata: Mapping[str, str], names: Iterable[str] | None = None
) -> None:
    """Write the tensors ``names`` of ``checkpoint``, by default all, dense to exactly ``path``.

    Raises:
        ExportError: A name cannot be stored.
        CheckpointError: A tensor cannot be read.
    """
    specs = [checkpoint.tensors[name] for name in (checkpoint.tensors if names is None else names)]
    try:
        header, order = safetensors_header.layout(
            {spec.name: (spec.dtype, spec.shape) for spec in specs}, {**metadata, "format": "pt"}
        )
    except ValueError as error:
        raise ExportError(f"cannot write {path}: {error}") from None
    with open(path, "wb") as file:
        file.write(header)
        for name in order:
            file.write(np.ascontiguousarray(checkpoint.read(name)).reshape(-1).view(np.uint8).data)


def write_folder(folder: Path, checkpoint: Checkpoint, source: Path, metadata: Mapping[str, str]) -> None:
    """Write ``checkpoint``, a view of the folder ``source``, into the empty ``folder``.

    Tensors stay together that were in one file. The weights become safetensors where they were none; configuration and
    tokenizer are copied, and ``metadata`` goes beside the weights.

    Raises:
        ExportError, CheckpointError: See :func:`write_file`.
    """
    shards: dict[Path, list[str]] = {}
    for name in checkpoint.tensors:
        shards.setdefault(checkpoint.file_of(name), []).append(name)
    single, index, *_ = WEIGHTS
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards.values(), 1):
        file = single if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / file, checkpoint, {}, names)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(spec.dense_bytes for spec in checkpoint.tensors.values())
        document = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / index).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    mask_file.write(folder / MASKS, {}, metadata)
    copy_companions(source, folder, ("config.json",))
