"""Sparse Parallel: k = 1/(1−s) branches of the dense layer's shape in its place, which share out its weights.

Source: Thangarasa et al., "Sparse-IFT", section 2.4: ψ(x) = Σ_j σ(θ_j x). Together the branches keep exactly as many
weights as the dense layer had, at most one more in one than in another. Their weights can be the dense ones, each in
one branch: without σ that is the same function.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from sift_cli.core.plan import TransformPlan
from sift_cli.errors import PlanError
from sift_cli.models import LoadedModel
from sift_cli.transforms import _replace
from sift_cli.transforms._options import TransformOptions
from sift_cli.transforms._replace import Choice, Keeps, Kind, Take, decide_in_place, each, nothing, released_count
from sift_cli.transforms._targets import Dense

#: Options it understands beyond those of all transforms.
OPTIONS = _replace.OPTIONS | {"snap"}
#: What it can start from.
INITS = frozenset({"scratch", "preserve"})


def decide(model: LoadedModel, options: TransformOptions) -> TransformPlan:
    """The plan that makes the layers of ``model`` parallel and sparse.

    Raises:
        PlanError: 1/(1−s) is no integer; or as :func:`~sift_cli.transforms._replace.decide_in_place`.
    """
    branches, options, notes = _branches(options)

    def choose(target: Dense) -> Choice | None:
        if target.weights < branches:
            return None
        names = [f"branches.{j}.weight" for j in range(branches)]
        if options.compat:
            kept = [released_count(options, target.weights)] * branches
        else:
            kept = [(j + 1) * target.weights // branches - j * target.weights // branches for j in range(branches)]
        biases = ["branches.0.bias"] if target.biased else []
        takes: dict[str, Take] = dict.fromkeys([*names, *biases], "original")
        return Choice({"branches": branches}, dict(zip(names, kept, strict=True)), takes)

    chosen = each(choose) if options.sparsity else nothing
    kind = Kind("parallel", "parallel", chosen, "norm", Keeps("partition", "same_function"), notes=notes)
    return decide_in_place(model, options, kind)


def _branches(options: TransformOptions) -> tuple[int, TransformOptions, tuple[str, ...]]:
    """Number of branches, the options at the sparsity that has them, and what to say about that."""
    exact = 1 / (1 - options.sparsity)
    if exact.denominator == 1 or options.compat:
        return round(exact), options, ()
    below = max(int(exact), 2)
    near = [1 - Fraction(1, k) for k in (below, below + 1)]
    if not options.snap:
        raise PlanError(
            f"there is no whole number of parallel branches at sparsity {options.sparsity}: "
            f"1/(1−s) is {float(exact):.4g}",
            hint=f"use --sparsity {near[0]} or {near[1]}, or --snap for the nearer one",
        )
    snapped = min(near, key=lambda s: abs(s - options.sparsity))
    note = f"sparsity {options.sparsity} was snapped to {snapped}, {1 / (1 - snapped)} branches"
    return int(1 / (1 - snapped)), replace(options, sparsity=snapped), (note,)
