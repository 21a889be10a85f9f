"""What every kind asks of a model's layers: which weights are used where, and whether a plan keeps to the budget."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from sift_cli.core.counts import FlopReport
from sift_cli.core.plan import TransformPlan
from sift_cli.errors import Infeasible, PlanError
from sift_cli.transforms._options import TransformOptions


@dataclass(frozen=True)
class Use:
    """How a weight is used in a forward pass.

    Attributes:
        layer: Path of the layer that uses it first.
        op: "conv" or "linear".
        positions: Times each of its elements is used, in all layers that share it.
    """

    layer: str
    op: str
    positions: int


def weight_names(module: nn.Module) -> dict[str, str]:
    """Every name of every parameter → the first name of the same parameter."""
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in module.named_parameters(remove_duplicate=False)}


def used_weights(module: nn.Module, report: FlopReport) -> dict[str, Use]:
    """The weights of ``module`` that have MACs, by first name, in order of execution.

    Args:
        module: The model.
        report: Its MACs.
    """
    names, parameters = weight_names(module), dict(module.named_parameters())
    used: dict[str, Use] = {}
    for count in report.layers:
        weight = names.get(count.weight or "")
        if weight is not None:
            before = used.get(weight, Use(count.name, count.op, 0))
            positions = before.positions + count.dense // parameters[weight].numel()
            used[weight] = Use(before.layer, before.op, positions)
    return used


def check_globs(options: TransformOptions, layers: Collection[str]) -> None:
    """Refuse ``only`` and ``keep`` where they name no layer.

    Raises:
        PlanError: A glob matches none of ``layers``.
    """
    for glob in (*options.only, *options.keep):
        if not any(TransformOptions(options.sparsity, keep=(glob,)).selects(name) is False for name in layers):
            raise PlanError(f"no layer matches {glob!r}", hint=f"layer names look like {next(iter(layers), '')!r}")


def require_within(plan: TransformPlan, *, hint: str) -> None:
    """Refuse a plan that costs more than the dense model.

    Raises:
        Infeasible: It does.
    """
    if plan.macs_after > plan.macs_before:
        raise Infeasible(
            plan.kind, "the model", f"at most {plan.macs_before:,} MACs", f"{plan.macs_after:,}", hint=hint
        )
