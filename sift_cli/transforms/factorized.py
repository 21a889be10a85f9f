"""Sparse Factorized: two sparse factors in the place of a dense layer, whose inner size grows with the sparsity.

Source: Thangarasa et al., "Sparse-IFT", section 2.4: ψ(x) = V σ(U x), of rank d = D_in·D_out / ((D_in + D_out)(1−s)).
Rounded up, so that the budget, all the weights that the dense layer had, leaves both factors sparse; they get one
density, solved for.
"""

from __future__ import annotations

import math

from sift_cli.core.plan import TransformPlan
from sift_cli.models import LoadedModel
from sift_cli.transforms import _replace
from sift_cli.transforms._budget import Cost, spend
from sift_cli.transforms._options import TransformOptions
from sift_cli.transforms._replace import Choice, Keeps, Kind, Take, decide_in_place, each, nothing, released_count
from sift_cli.transforms._targets import Dense

#: Options it understands beyond those of all transforms.
OPTIONS = _replace.OPTIONS
#: What it can start from.
INITS = frozenset({"scratch", "preserve"})


def decide(model: LoadedModel, options: TransformOptions) -> TransformPlan:
    """The plan that factorizes the layers of ``model``.

    Raises:
        PlanError: As :func:`~sift_cli.transforms._replace.decide_in_place`.
    """

    def choose(target: Dense) -> Choice:
        # Released at s = .9: the float 1 − .9 is a little less than .1, which makes 577 of a rank of 576.
        density = 1 - (float(options.sparsity) if options.compat else options.sparsity)
        rank = math.ceil(target.weights / (density * (target.inputs + target.outputs)))
        sizes = {"u.weight": target.inputs * rank, "v.weight": rank * target.outputs}
        if options.compat:
            kept = {name: released_count(options, size) for name, size in sizes.items()}
        else:
            kept = spend(target.weights, {name: Cost(size, 1) for name, size in sizes.items()}, transform="factorized")
        takes: dict[str, Take] = {"u.weight": "svd_u", "v.weight": "svd_v"}
        if target.biased:
            takes["v.bias"] = "original"
        return Choice({"rank": rank}, kept, takes)

    chosen = each(choose) if options.sparsity else nothing
    kind = Kind("factorized", "factorized", chosen, "norm-act", Keeps("topk", "approximation"))
    return decide_in_place(model, options, kind)
