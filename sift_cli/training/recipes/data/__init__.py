"""Where samples come from, one module a source.

A source is a module with ::

    Options                          a frozen dataclass: the keys that it has in a recipe
    open(options) -> Data            what is to be trained on and to be measured on

Nothing is downloaded, and no pickle is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sift_cli import registry
from sift_cli.errors import PlanError
from sift_cli.training.recipes.keys import Named, read

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["Data", "Split", "open_data"]


class Split(Protocol):
    """Samples, numbered from 0."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, random: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some samples.

        Args:
            indices: (N,) their numbers.
            random: What augmentation depends on; None for samples as they are.

        Returns:
            Inputs (N, …), float32 or int64; targets (N,) of classification, (N, length) of language, int64.
        """
        ...


@dataclass(frozen=True)
class Data:
    """What a model is trained on.

    Attributes:
        task: Whether a sample has one target, or each of its positions the one that follows.
        classes: Classes, or tokens that there are.
        shape: Shape of one sample's input.
        train, validation: The samples.
    """

    task: Literal["classification", "language"]
    classes: int
    shape: tuple[int, ...]
    train: Split
    validation: Split


def open_data(section: Named) -> Data:
    """The data that a recipe asks for.

    Raises:
        PlanError: There is no such source, or it has no such option.
        CheckpointError: A file of it cannot be read.
        MissingExtra: A package is not installed.
    """
    if section.name not in registry.names(__name__):
        known = ", ".join(registry.names(__name__))
        raise PlanError(f"there are no data {section.name!r:.40}", hint=f"choose one of: {known}")
    plugin: Any = registry.discover(__name__)[section.name]
    opened: Callable[[Any], Data] = plugin.open
    data = opened(read(plugin.Options, section.arguments, "data"))
    if not len(data.train) or not len(data.validation):
        raise PlanError(f"the data {section.name} have nothing to {'measure' if len(data.train) else 'train'} on")
    return data
