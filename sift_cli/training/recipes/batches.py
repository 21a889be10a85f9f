"""Which samples a step sees. It is a function of the seed and the step, so a run that goes on needs no state of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sift_cli.core.seeds import generator
from sift_cli.errors import PlanError, SiftError
from sift_cli.training.recipes.data import Split

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Order(Dataset):
    """The batches of a training, by step (from 0) and part.

    Every epoch has its own order of all samples; the last ones that do not fill a batch are left out of it. A batch is
    cut into equal parts, and what is random in a part depends on its number, so it makes no difference to the data
    whether the parts go to several processes or are accumulated in one.

    Attributes:
        split: The samples.
        size: Samples of a batch, all parts together.
        parts: Parts of a batch.
        seed: Seed of order and augmentation.
    """

    split: Split
    size: int
    parts: int
    seed: int

    def __post_init__(self) -> None:
        if self.size % self.parts:
            raise PlanError(f"a batch of {self.size} does not make {self.parts} equal parts", hint="change batch")
        if self.size > len(self.split):
            raise PlanError(f"a batch is {self.size} samples, and there are {len(self.split)}", hint="lower batch")

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.split) // self.size

    def __getitem__(self, which: tuple[int, int]) -> Batch:
        step, part = which
        epoch, place = divmod(step, self.epoch)
        length = self.size // self.parts
        first = place * self.size + part * length
        random = generator(self.seed, f"step {step} part {part}", "augmentation")
        return self.split.batch(_shuffled(self.seed, epoch, len(self.split))[first : first + length], random)


@functools.lru_cache(2)
def _shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    return generator(seed, f"epoch {epoch}", "order").permutation(count)


@dataclass(frozen=True)
class InTurn(Dataset):
    """A split from its first to its last sample, unchanged, in batches of ``size``."""

    split: Split
    size: int

    def __len__(self) -> int:
        return -(-len(self.split) // self.size)

    def __getitem__(self, index: int) -> Batch:
        first = index * self.size
        return self.split.batch(np.arange(first, min(first + self.size, len(self.split))), None)


def loaded(batches: Dataset, keys: Iterator, *, workers: int, pinned: bool) -> Iterator[Batch]:
    """The batches of ``keys``, prepared ahead by ``workers`` processes.

    Raises:
        SiftError: A sample cannot be read.
    """
    sampler, careful = _Keys(keys), _Careful(batches)
    for batch in DataLoader(careful, batch_size=None, sampler=sampler, num_workers=workers, pin_memory=pinned):
        if isinstance(batch, _Failed):
            raise batch.error()
        yield batch


class _Keys:
    """Keys in a given order, made as they are needed."""

    def __init__(self, keys: Iterator) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator:
        return self._keys


@dataclass(frozen=True)
class _Failed:
    """An error on its way from one process to another. torch would make a RuntimeError with a traceback of it."""

    kind: type[SiftError]
    message: str
    hint: str | None

    def error(self) -> SiftError:
        made = self.kind.__new__(self.kind)
        SiftError.__init__(made, self.message, hint=self.hint)
        return made


@dataclass(frozen=True)
class _Careful(Dataset):
    batches: Dataset

    def __getitem__(self, key: object) -> Batch | _Failed:
        try:
            found: Batch = self.batches[key]
            return found
        except SiftError as error:
            return _Failed(type(error), error.message, error.hint)
