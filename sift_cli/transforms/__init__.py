"""Transforms: one file a kind. A transform decides (a pure function from a model to a plan) and never touches a
tensor."""

from __future__ import annotations

from dataclasses import replace

from sift_cli import registry
from sift_cli.core.plan import TransformPlan
from sift_cli.errors import PlanError
from sift_cli.models import LoadedModel
from sift_cli.models.calling import tensors_of
from sift_cli.transforms._options import COMMON, TransformOptions

__all__ = ["TransformOptions", "decide", "kinds"]


def kinds() -> tuple[str, ...]:
    """Names of all transforms."""
    return registry.names(__name__)


def decide(kind: str, model: LoadedModel, options: TransformOptions) -> TransformPlan:
    """The plan of transform ``kind`` for ``model``. The model is not changed; meta tensors do.

    Raises:
        PlanError: Unknown kind, an option that it does not have, or options that do not fit the model.
    """
    if kind not in kinds():
        raise PlanError(f"there is no transform {kind!r}", hint=f"choose one of: {', '.join(kinds())}")
    plugin = registry.discover(__name__)[kind]
    for option in sorted(options.given - COMMON - plugin.OPTIONS):
        has = ", ".join(sorted(plugin.OPTIONS))
        raise PlanError(f"the transform {kind} has no option {option}", hint=f"beside those of all transforms: {has}")
    if options.init not in plugin.INITS:
        raise PlanError(f"the transform {kind} has no --init {options.init}", hint=f"use --init {min(plugin.INITS)}")
    if options.match is None:
        tokens = not all(tensor.is_floating_point() for tensor in tensors_of(model.inputs))
        options = replace(options, match="layer" if tokens else "model")
    plan: TransformPlan = plugin.decide(model, options)
    return plan
