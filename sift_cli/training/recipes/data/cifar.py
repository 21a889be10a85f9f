"""CIFAR-10 and CIFAR-100 in their binary version (Krizhevsky, 2009): records of labels and of 3 × 32 × 32 bytes.

https://www.cs.toronto.edu/~kriz/cifar.html has it as ``cifar-10-binary.tar.gz`` and ``cifar-100-binary.tar.gz``. The
Python version is a pickle, and not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sift_cli.errors import Malformed, Unreadable
from sift_cli.training.recipes.data import Data
from sift_cli.training.recipes.data._arrays import Arrays, shifted_and_flipped

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Options:
    """Attributes:
    path: The folder with the ``.bin`` files; which of the two it is, their names say.
    augment: Shift images by up to four pixels and mirror half of them, as is usual.
    """

    path: str
    augment: bool = True


@dataclass(frozen=True)
class _Kind:
    """One of the two.

    Attributes:
        train, test: Names of the files.
        labels: Bytes of labels before an image; the last one counts, the fine label of CIFAR-100.
        classes: Classes.
        mean, std: Of each channel over the training images, from 0 to 1.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_TEN = _Kind(
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",), 1, 10,
    (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616),
)  # fmt: skip
_HUNDRED = _Kind(("train.bin",), ("test.bin",), 2, 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def open(options: Options) -> Data:
    folder = Path(options.path)
    kind = next((one for one in (_TEN, _HUNDRED) if (folder / one.train[0]).is_file()), None)
    if kind is None:
        hint = "give the folder with data_batch_1.bin … of CIFAR-10, or train.bin and test.bin of CIFAR-100"
        raise Unreadable(folder, "it has no CIFAR in the binary version", hint=hint)
    mean, std = (tuple(255 * value for value in values) for values in (kind.mean, kind.std))
    augments = (shifted_and_flipped(4) if options.augment else None, None)
    splits = (
        Arrays(*_read([folder / name for name in names], kind), mean, std, augment)
        for names, augment in zip((kind.train, kind.test), augments, strict=True)
    )
    return Data("classification", kind.classes, (3, 32, 32), *splits)


def _read(paths: list[Path], kind: _Kind) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 3, 32, 32) uint8 images and (N,) int64 labels."""
    parts = []
    for path in paths:
        try:
            raw = np.fromfile(path, np.uint8)
        except OSError as error:
            raise Unreadable(path, error.strerror or str(error)) from None
        size = kind.labels + _PIXELS
        if not len(raw) or len(raw) % size:
            raise Malformed(path, f"byte {len(raw) // size * size}", f"a record is {size} bytes, and here it ends")
        records = raw.reshape(-1, size)
        if (wrong := records[:, kind.labels - 1] >= kind.classes).any():
            first = int(wrong.argmax())
            label = records[first, kind.labels - 1]
            raise Malformed(path, f"record {first}", f"its label is {label}, and there are {kind.classes} classes")
        parts.append(records)
    records = np.concatenate(parts)
    images = torch.from_numpy(records[:, kind.labels :].reshape(-1, 3, 32, 32).copy())
    return images, torch.from_numpy(records[:, kind.labels - 1].astype(np.int64))
