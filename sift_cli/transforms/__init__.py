"""Transforms: one file a kind. A transform decides (a pure function from a model to a plan) and never touches a
tensor."""

from __future__ import annotations

from sift_cli import registry
from sift_cli.core.plan import TransformPlan
from sift_cli.errors import PlanError
from sift_cli.models import LoadedModel
from sift_cli.transforms._options import TransformOptions

__all__ = ["TransformOptions", "decide", "kinds"]


def kinds() -> tuple[str, ...]:
    """Names of all transforms."""
    return registry.names(__name__)


def decide(kind: str, model: LoadedModel, options: TransformOptions) -> TransformPlan:
    """The plan of transform ``kind`` for ``model``. The model is not changed; meta tensors do.

    Raises:
        PlanError: Unknown kind, or options that do not fit the model.
    """
    if kind not in kinds():
        raise PlanError(f"there is no transform {kind!r}", hint=f"choose one of: {', '.join(kinds())}")
    plan: TransformPlan = registry.discover(__name__)[kind].decide(model, options)
    return plan
