"""How far the layers that were put in the place of others are from them: ‖W − W'‖ / ‖W‖ in Frobenius' norm, for W the
dense matrix and W' the one that the new layer multiplies with, both as they were read.

No bound on it can be promised beforehand, it depends on the weights. What is claimed is the number, for each layer and
for all of them together, and that it is below that of a layer of zeros.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from sift_cli.core.certificate import Claim, claim
from sift_cli.layers import Replacement, weight_of
from sift_cli.verify.evidence import Evidence


def measure(evidence: Evidence) -> Iterator[Claim]:
    lost, whole = 0.0, 0.0
    for path in evidence.written.plan.replaced:
        dense = weight_of(evidence.original.module.get_submodule(path)).flatten(1).double()
        new = copy.deepcopy(evidence.artifact.module.get_submodule(path)).double()
        assert isinstance(new, Replacement)
        difference, norm = float((dense - new.matrix()).square().sum()), float(dense.square().sum())
        yield _claim(difference, norm, path)
        lost, whole = lost + difference, whole + norm
    yield _claim(lost, whole, "all layers together")


def _claim(lost: float, whole: float, where: str) -> Claim:
    error = (lost / whole) ** 0.5 if whole else 0.0
    bound = f"below 1, the error of zeros, of {where}"
    return claim("approximation", error < 1, before=0.0, after=error, bound=bound, counter="torch")
