"""The model that a recipe begins with."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from sift_cli.core.plan import ARGUMENTS, Architecture
from sift_cli.errors import PlanError
from sift_cli.models import LoadedModel, parse_architecture
from sift_cli.surgery import TransformedModel, transform
from sift_cli.training.recipes.data import Data
from sift_cli.training.recipes.keys import Named, mapping, read
from sift_cli.transforms import TransformOptions, decide, kinds


def architecture(section: Named, data: Data) -> Architecture:
    """An architecture with the arguments of the recipe, and as many classes as the data have unless those say it.

    Raises:
        UnknownArchitecture: There is none by that name.
        PlanError: It has no such argument.
    """
    found = parse_architecture(section.name)
    if found.source == "transformers":
        config = found.kwargs["config"]
        mapping(section.arguments, "model", config)
        tokens = {"vocab_size": data.classes} if data.task == "language" and "vocab_size" in config else {}
        return replace(found, kwargs={"config": {**config, **tokens, **section.arguments}})
    if found.source != "factory":
        mapping(section.arguments, "model", ARGUMENTS)
    classes = {"num_classes": data.classes} if found.source != "factory" else {}
    return replace(found, kwargs={**found.kwargs, **classes, **section.arguments})


def example(architecture: Architecture, data: Data) -> dict[str, Any]:
    """What :func:`sift_cli.models.load` takes to count a model on samples of these data."""
    shape = (1, *data.shape)
    if architecture.source == "factory" and data.task == "language":  # which says nothing of its input
        return {"input_arrays": {"arr_0": np.full(shape, data.classes - 1, np.int64)}}
    return {"input_shape": shape}


def transformed(model: LoadedModel, section: Named | None, seed: int) -> TransformedModel:
    """``model`` transformed as the recipe says; without a section, the same model with a plan that changes nothing.

    Raises:
        PlanError: There is no such transform, or none on this model.
    """
    if section is None:
        return transform(model, decide("wide", model, TransformOptions(Fraction(0), init="preserve", seed=seed)))
    if section.name not in kinds():
        raise PlanError(f"there is no transform {section.name!r:.40}", hint=f"choose one of: {', '.join(kinds())}")
    options = read(TransformOptions, dict(section.arguments), "transform", seed=seed)
    if options.mask == "file":
        raise PlanError(
            "a recipe's transform takes no masks from a file", hint="use sift transform, and name its output as model"
        )
    return transform(model, decide(section.name, model, options))
