"""Prefixes that a wrapper put in front of every name: ``module.``, ``_orig_mod.``, ``backbone.``, or any other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.core.masks import Mask


def common_prefixes(names: Iterable[str]) -> str:
    """The longest dotted prefix that all names share, with its dot, or "".

    Every name keeps at least its last component: ``module.fc.weight`` and ``module.fc.bias`` share ``module.fc.``.
    Whether all of it is a wrapper's or the end of it is the model's own, only the model can tell.
    """
    paths = [name.split(".") for name in names]
    if not paths:
        return ""
    first, last = min(paths), max(paths)  # what these two share, all that sort between them share
    shortest = min(map(len, paths)) - 1
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last[:shortest], strict=False))
    return "".join(f"{part}." for part, _ in same)


class _Stripped(Checkpoint):
    def __init__(self, inner: Checkpoint, prefix: str) -> None:
        self._inner = inner
        self.path, self.format, self.metadata = inner.path, inner.format, inner.metadata
        self.wrapper, self.ignored, self.module = inner.wrapper, inner.ignored, inner.module
        self.prefix = inner.prefix + prefix
        cut = len(prefix)
        self.tensors = {name[cut:]: replace(spec, name=name[cut:]) for name, spec in inner.tensors.items()}
        self._cut = prefix

    def _read(self, name: str) -> np.ndarray:
        return self._inner.read(self._cut + name)

    def _mask(self, name: str) -> Mask | None:
        return self._inner.mask(self._cut + name)

    def file_of(self, name: str) -> Path:
        return self._inner.file_of(self._cut + name)

    def files(self) -> Sequence[Path]:
        return self._inner.files()

    def close(self) -> None:
        self._inner.close()


def stripped(checkpoint: Checkpoint, prefix: str | None = None) -> Checkpoint:
    """A view of ``checkpoint`` without ``prefix`` (by default :func:`common_prefixes`) in front of its names.

    Raises:
        ValueError: A name does not begin with ``prefix``.
    """
    cut = common_prefixes(checkpoint.tensors) if prefix is None else prefix
    if not cut:
        return checkpoint
    for name in checkpoint.tensors:
        if not name.startswith(cut):
            raise ValueError(f"{name!r} does not begin with {cut!r}")
    return _Stripped(checkpoint, cut)
