"""Sparse Doped: a sparse layer beside a dense low-rank one, which share the weights of the dense layer.

Source: Thangarasa et al., "Sparse-IFT", section 2.4: ψ(x) = V (U x) + σ(θ x), with U and V of rank
d = s·D_in·D_out / (D_in + D_out). U and V are dense, as the paper's FLOPs have them; what rounding the rank down leaves
goes to θ. (The official code masks U and V as well, and ends at .745, .437 and .191 of the dense FLOPs.)
"""

from __future__ import annotations

from sift_cli.core.plan import TransformPlan
from sift_cli.models import LoadedModel
from sift_cli.transforms import _replace
from sift_cli.transforms._options import TransformOptions
from sift_cli.transforms._replace import Choice, Keeps, Kind, Take, decide_in_place, each, nothing, released_count
from sift_cli.transforms._targets import Dense

#: Options it understands beyond those of all transforms.
OPTIONS = _replace.OPTIONS
#: What it can start from.
INITS = frozenset({"scratch", "preserve"})


def decide(model: LoadedModel, options: TransformOptions) -> TransformPlan:
    """The plan that dopes the layers of ``model``.

    Raises:
        PlanError: As :func:`~sift_cli.transforms._replace.decide_in_place`.
    """

    def choose(target: Dense) -> Choice | None:
        both = target.inputs + target.outputs
        rank = int(options.sparsity * target.weights / both)
        if not rank:
            return None
        kept = {"theta.weight": target.weights - rank * both}
        if options.compat:
            sizes = {"theta": target.weights, "u": rank * target.inputs, "v": rank * target.outputs}
            kept = {f"{name}.weight": released_count(options, size) for name, size in sizes.items()}
        takes: dict[str, Take] = {"theta.weight": "original", "u.weight": "svd_u", "v.weight": "svd_v"}
        if target.biased:
            takes["v.bias"] = "original"
        return Choice({"rank": rank}, kept, takes)

    chosen = each(choose) if options.sparsity else nothing
    return decide_in_place(model, options, Kind("doped", "doped", chosen, "none", Keeps("topk", "approximation")))
