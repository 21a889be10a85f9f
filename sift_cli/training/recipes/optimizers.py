"""The optimizer that a recipe asks for, any of ``torch.optim``."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sift_cli.errors import PlanError
from sift_cli.training.recipes.keys import Named, mapping


def optimizer(section: Named, model: nn.Module, *, decay_norms_and_biases: bool) -> Optimizer:
    """The optimizer of ``model``'s parameters, in two groups: what weight decay is for, and what has one axis or none.

    Raises:
        PlanError: torch has none by that name, or it does not take these arguments.
    """
    classes: dict[str, Any] = {
        name.lower(): cls
        for name, cls in vars(torch.optim).items()
        if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
    }
    if section.name.lower() not in classes:
        near = difflib.get_close_matches(section.name.lower(), classes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(sorted(classes))}"
        raise PlanError(f"torch.optim has no {section.name!r:.40}", hint=hint)
    cls = classes[section.name.lower()]
    mapping(section.arguments, "optimizer", set(inspect.signature(cls).parameters) - {"params"}, needs=("lr",))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [one for one in trained if one.dim() > 1 or decay_norms_and_biases]},
        {"params": [one for one in trained if one.dim() <= 1 and not decay_norms_and_biases], "weight_decay": 0.0},
    ]
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in section.arguments.items()}
    try:
        made: Optimizer = cls([group for group in groups if group["params"]], **arguments)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}: {value!r:.40}" for key, value in section.arguments.items())
        raise PlanError(f"the optimizer {section.name} does not accept {given} ({error})") from None
    return made
