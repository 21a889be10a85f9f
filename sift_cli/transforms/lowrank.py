"""Low rank: a wider model whose layers are products of two dense factors, the paper's baseline without sparsity.

Source: Thangarasa et al., "Sparse-IFT", appendix B.3.2 and table 11. Widths grow by k = 1/√(1−s), as for Sparse Wide,
or by ``width``; the rank at which a layer costs what it cost is d = D_in·D_out / (k (D_in + D_out)) in sizes of the
dense model. (The paper prints k in the numerator; equal FLOPs put it below.) Rounded down, so that no layer costs more.
The first and the last layer stay dense and cost more, which all ranks together pay for under ``match="model"``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from torch import nn

from sift_cli.core.plan import TransformPlan
from sift_cli.errors import Infeasible
from sift_cli.models import LoadedModel
from sift_cli.models.calling import Inputs
from sift_cli.transforms import _replace
from sift_cli.transforms._budget import Cost, spend
from sift_cli.transforms._options import TransformOptions
from sift_cli.transforms._replace import Base, Choice, Kind, decide_in_place, nothing
from sift_cli.transforms._targets import Dense
from sift_cli.transforms._widen import widen

#: Options it understands beyond those of all transforms.
OPTIONS = _replace.OPTIONS | {"multiple", "width"}
#: What it can start from.
INITS = frozenset({"scratch"})


def decide(model: LoadedModel, options: TransformOptions) -> TransformPlan:
    """The plan that makes ``model`` wide and of low rank.

    Raises:
        PlanError, Infeasible, UnsupportedOp: As :func:`~sift_cli.transforms._replace.decide_in_place`, and as widening.
    """
    squared = options.width**2 if options.width is not None else 1 / (1 - options.sparsity)

    def choose(targets: Sequence[Dense], budget: int) -> dict[str, Choice]:
        ranks = {target.path: _rank(target, squared, options) for target in targets}
        if options.match == "model" and not options.compat:
            costs = {t.path: Cost(ranks[t.path], t.positions * (t.inputs + t.outputs)) for t in targets}
            ranks = spend(budget, costs, transform="lowrank")
        return {path: Choice({"rank": rank}) for path, rank in ranks.items()}

    def rebuilt(meta: nn.Module, inputs: Inputs) -> Base:
        if squared == 1:
            return Base(meta)
        widened = widen(meta, inputs, squared, options)
        return Base(widened.module, widened.edits, widened.notes)

    chosen = choose if options.sparsity or options.width is not None else nothing
    # A shortcut is as wide as what it leads around, so it has to pay for that like any other layer.
    kind = Kind("lowrank", "factorized", chosen, "norm-act", None, stays=frozenset({"first", "last"}))
    return decide_in_place(model, options, kind, rebuilt)


def _rank(target: Dense, squared: Fraction, options: TransformOptions) -> int:
    both = target.inputs + target.outputs
    rank = math.ceil(target.weights / squared / both) if options.compat else target.budget // both
    if not rank:
        raise Infeasible(
            "lowrank", target.path, f"{both:,} weights for one rank", f"{target.budget:,}",
            hint=f"--keep {target.path}, or a smaller width",
        )  # fmt: skip
    return rank
