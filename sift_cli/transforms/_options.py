"""What a user can ask of any transform."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any, Literal

from sift_cli.errors import PlanError


@dataclass(frozen=True)
class TransformOptions:
    """Options of a transform.

    Attributes:
        sparsity: Nominal sparsity s in [0, 1), exact. It sets the width; the masks' sparsity is solved for.
        match: "model" keeps the model's total MACs, "layer" keeps every sparse layer's nonzeros.
        init: "scratch" draws new weights, "preserve" keeps the function of the given ones.
        seed: Seed of masks and weights.
        multiple: Round widths to a multiple of this; None truncates, as the paper does.
        only: Globs over layer names; when given, only these layers become sparse.
        keep: Globs over layer names; these layers stay dense.
    """

    sparsity: Fraction
    match: Literal["model", "layer"] = "model"
    init: Literal["scratch", "preserve"] = "scratch"
    seed: int = 0
    multiple: int | None = None
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise PlanError(f"sparsity {self.sparsity} is outside [0, 1)")
        if self.match not in ("model", "layer"):
            raise PlanError(f"match must be 'model' or 'layer', not {self.match!r}")
        if self.init not in ("scratch", "preserve"):
            raise PlanError(f"init must be 'scratch' or 'preserve', not {self.init!r}")
        if self.multiple is not None and not 1 <= self.multiple <= 4096:
            raise PlanError(f"multiple {self.multiple} is outside 1 … 4096")
        if not 0 <= self.seed < 2**63:
            raise PlanError(f"seed {self.seed} is outside 0 … 2**63 − 1")

    def selects(self, layer: str) -> bool | None:
        """True or False where the globs decide about ``layer``, None where they say nothing."""
        if any(fnmatchcase(layer, glob) for glob in self.keep):
            return False
        if self.only:
            return any(fnmatchcase(layer, glob) for glob in self.only)
        return None

    def to_json(self) -> dict[str, Any]:
        """JSON values; sparsity has its own place in the plan."""
        return {
            "match": self.match,
            "init": self.init,
            "seed": self.seed,
            "multiple": self.multiple,
            "only": list(self.only),
            "keep": list(self.keep),
        }
