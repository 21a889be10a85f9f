"""Sparse training: masks that hold, and move, in any PyTorch loop. torch is imported when a name is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sift_cli.training.costs import TrainingFlops as TrainingFlops
    from sift_cli.training.sparsifier import Sparsifier as Sparsifier
    from sift_cli.training.sparsifier import Update as Update
    from sift_cli.training.start import sparsify as sparsify

_HOMES = {"Sparsifier": "sparsifier", "TrainingFlops": "costs", "Update": "sparsifier", "sparsify": "start"}
__all__ = ["Sparsifier", "TrainingFlops", "Update", "sparsify"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
