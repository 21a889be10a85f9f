"""A folder of images, as ImageNet is laid out: ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sift_cli.errors import Malformed, MissingExtra, PlanError, Unreadable
from sift_cli.training.recipes.data import Data

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})
#: Of ImageNet's channels, from 0 to 1.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Options:
    """Attributes:
    path: The folder with ``train`` and ``val``.
    size: Side of the squares that the model gets.
    shorter: The shorter side of an image is scaled to at least and at most this before a square is cut out of it at
        random (Simonyan and Zisserman, 2014; Sparse-IFT, appendix B.2).
    evaluated: Side to which an image is scaled before the square in its middle is measured.
    """

    path: str
    size: int = 224
    shorter: tuple[int, ...] = (256, 480)
    evaluated: int = 256


def open(options: Options) -> Data:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise MissingExtra("pillow", "train", "a folder of images") from None
    if len(options.shorter) != 2 or not 1 <= options.size <= min(options.evaluated, options.shorter[0]):
        raise PlanError("data.size has to be at most data.evaluated and the first of data.shorter, which are two")
    if options.shorter[0] > options.shorter[1]:
        raise PlanError("the first of data.shorter is larger than the second")
    root = Path(options.path)
    train, val = (_listed(root / name) for name in ("train", "val"))
    if train.keys() != val.keys():
        name = sorted(train.keys() ^ val.keys())[0]
        raise Unreadable(root, f"the class {name!r} is not both in train and in val")
    splits = (_Images(classes, options) for classes in (train, val))
    return Data("classification", len(train), (3, options.size, options.size), *splits)


def _listed(folder: Path) -> dict[str, list[Path]]:
    """Class → its images, all in the order of their names."""
    try:
        classes = sorted(one for one in folder.iterdir() if one.is_dir())
        found = {one.name: sorted(p for p in one.iterdir() if p.suffix.lower() in _SUFFIXES) for one in classes}
    except OSError as error:
        hint = "give the folder that has train/CLASS/… and val/CLASS/…"
        raise Unreadable(folder, error.strerror or str(error), hint=hint) from None
    return found


class _Images:
    def __init__(self, classes: dict[str, list[Path]], options: Options) -> None:
        self._options = options
        self._paths = [str(path) for paths in classes.values() for path in paths]
        self._labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()])

    def __len__(self) -> int:
        return len(self._paths)

    def batch(self, indices: np.ndarray, random: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        pixels = torch.stack([self._image(self._paths[index], random) for index in indices])
        return (pixels / 255 - mean) / std, torch.from_numpy(self._labels[indices])

    def _image(self, path: str, random: np.random.Generator | None) -> Tensor:
        """(3, size, size) bytes."""
        from PIL import Image

        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise Malformed(path, "its image", str(error).splitlines()[0]) from None
        image = _scaled(image, self._options.evaluated if random is None else int(random.integers(*self._range)))
        size = self._options.size
        free = image.width - size, image.height - size
        left, top = (free[0] // 2, free[1] // 2) if random is None else (int(random.integers(n + 1)) for n in free)
        pixels = torch.from_numpy(np.array(image.crop((left, top, left + size, top + size)))).permute(2, 0, 1)
        return pixels.flip(2) if random is not None and random.random() < 0.5 else pixels

    @property
    def _range(self) -> tuple[int, int]:
        low, high = self._options.shorter
        return low, high + 1


def _scaled(image: Any, shorter: int) -> Any:
    """The image with its shorter side at ``shorter``, by bilinear interpolation."""
    from PIL import Image

    width, height = image.size
    scale = shorter / min(width, height)
    sizes = max(shorter, round(scale * width)), max(shorter, round(scale * height))
    return image.resize(sizes, Image.Resampling.BILINEAR)
