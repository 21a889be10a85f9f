"""Masks without weights, for a model whose weights lie dense in files of their own.

A safetensors file with one array ``<name>.bitmask`` a mask, in the layout of :class:`~sift_cli.core.masks.Mask`; shapes
and rules are under :data:`KEY` in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sift_cli.checkpoint import safetensors_header
from sift_cli.checkpoint._bytes import ByteFile, checked_shape
from sift_cli.checkpoint._json import loads
from sift_cli.core.masks import Mask, MaskSet
from sift_cli.errors import Malformed

KEY = "sift.masks"
_SUFFIX = ".bitmask"


def write(path: Path, masks: Mapping[str, Mask], metadata: Mapping[str, str]) -> None:
    """Write ``masks`` and further strings to exactly ``path``; the same arguments make the same bytes."""
    about = {name: {"shape": list(mask.shape), "rule": mask.rule, "seed": mask.seed} for name, mask in masks.items()}
    arrays = {f"{name}{_SUFFIX}": np.ascontiguousarray(mask.bits) for name, mask in masks.items()}
    header, order = safetensors_header.write(
        arrays, {**metadata, "format": "pt", KEY: json.dumps(about, sort_keys=True, separators=(",", ":"))}
    )
    with open(path, "wb") as file:
        file.write(header)
        for name in order:
            file.write(arrays[name].data)


def read(path: Path) -> tuple[MaskSet, Mapping[str, str]]:
    """Inverse of :func:`write`: the masks, and all strings.

    Raises:
        Unreadable: See :class:`~sift_cli.checkpoint._bytes.ByteFile`.
        Malformed: The file is none that :func:`write` wrote.
    """
    file = ByteFile(path)
    try:
        entries, metadata = safetensors_header.read(file)
        try:
            about = loads(metadata.get(KEY, ""))
            if not isinstance(about, dict) or {f"{name}{_SUFFIX}" for name in about} != entries.keys():
                raise ValueError("its masks are not those that its metadata names")
            masks = {}
            for name, item in about.items():
                if not isinstance(item, dict) or item.keys() != {"shape", "rule", "seed"}:
                    raise ValueError(f"of {name!r} it has no shape, rule and seed")
                if not isinstance(item["rule"], str) or type(item["seed"]) not in (int, type(None)):
                    raise ValueError(f"the rule of {name!r} is not a string or its seed not an integer")
                entry = entries[f"{name}{_SUFFIX}"]
                bits = file.read(entry.offset, entry.nbytes, f"the mask of {name!r}")
                masks[name] = _mask(checked_shape(item["shape"], 1), bits, item["rule"], item["seed"])
        except ValueError as error:
            raise Malformed(path, f"its metadata {KEY}", str(error)) from None
        return MaskSet(masks), metadata
    finally:
        file.close()


def _mask(shape: tuple[int, ...], bits: np.ndarray, rule: str, seed: int | None) -> Mask:
    mask = Mask(shape, bits, rule, seed)
    if mask.numel % 8 and bits[-1] >> (mask.numel % 8):
        raise ValueError("a mask has bits behind its end")
    return mask
