"""What holds and moves the masks of a training, as its recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from sift_cli.surgery import packed_masks_of
from sift_cli.training.recipes.keys import read
from sift_cli.training.recipes.recipe import Recipe
from sift_cli.training.sparsifier import Sparsifier
from sift_cli.training.start import sparsify


def sparsifier(recipe: Recipe, model: nn.Module, optimizer: Any, steps: int) -> Sparsifier | None:
    """The recipe's rule at work; masks that no rule moves are held. None for a model that is dense and stays so.

    Raises:
        PlanError, ModelError: See :func:`sift_cli.sparsify`.
    """
    if recipe.sparsity_config is not None:
        from sift_cli.training.config import SparsityConfig

        config = SparsityConfig.load(Path(recipe.sparsity_config))
        found: Sparsifier = config.sparsify(model, optimizer, total_steps=steps, seed=recipe.seed)
        return found
    if recipe.rule is None:
        return sparsify(model, optimizer, "static", seed=recipe.seed) if packed_masks_of(model) else None
    return read(
        sparsify, dict(recipe.rule.arguments), "rule", model=model, optimizer=optimizer, rule=recipe.rule.name,
        total_steps=steps, seed=recipe.seed, process_group=None,
    )  # fmt: skip
