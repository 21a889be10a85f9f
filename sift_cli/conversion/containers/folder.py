"""A folder of safetensors files, as transformers has it: one file, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Callable

from sift_cli.checkpoint.folder import WEIGHTS
from sift_cli.conversion.containers import PlannedFile, Tensor, safetensors
from sift_cli.conversion.encodings import About

SUFFIXES = ("",)
ENCODING = "sift"
CHECKSUMS = False


def plan(tensors: list[Tensor], about: Callable[[list[str]], About], shard_size: int) -> list[PlannedFile]:
    single, index, *_ = WEIGHTS
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > shard_size:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    files = []
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = single if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        files.append(safetensors.plan_file(name, shard, about([tensor.name for tensor in shard])))
        weight_map |= {listed: name for tensor in shard for listed in tensor.listed}
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors)
        document = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        text = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
        files.append(PlannedFile(index, len(text), {}, lambda _: [(0, text)]))
    return files
