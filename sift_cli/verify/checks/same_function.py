"""The transformed model computes the function of the original: compared in double precision on random inputs.

In double precision because there the two differ by rounding alone, some 1e-15 of the output's scale, while a single
weight in the wrong place moves an output by far more than the bound.

A plan that multiplies weights (queries, where the size of a head grows) leaves the nearest numbers of float32 in the
file, and those of the whole model compute the function only as closely as float32 can say it. How far a rounding error
of 2⁻²⁴ is carried to the outputs depends on the model, so no bound on that would be strict. Two things are claimed
instead: the plan, carried out in double precision, keeps the function within the same bound; and every value in the
file is within 2⁻²⁴ of what that gives. The error of the file itself is reported with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sift_cli import surgery
from sift_cli.core.certificate import Claim, claim
from sift_cli.core.plan import FillTensor
from sift_cli.verify.evidence import Evidence
from sift_cli.verify.functions import BATCH, doubled, largest_difference

#: Largest difference allowed, as a part of the largest output.
BOUND = 1e-9
#: Largest relative error of rounding to float32.
ROUNDING = 2.0**-24


def measure(evidence: Evidence) -> Iterator[Claim]:
    original, plan = evidence.original, evidence.written.plan
    error = largest_difference(original, evidence.artifact.module)
    scaled = {edit.tensor for edit in plan.edits if isinstance(edit, FillTensor) and edit.distribution == "scale"}
    if not scaled:
        yield _claim(error, "")
        return
    exact, _ = surgery.apply(doubled(original.module), plan)
    before_rounding = f", before {len(scaled)} tensors are rounded to float32 ({error:.1e} after)"
    yield _claim(largest_difference(original, exact), before_rounding)
    expected = exact.state_dict()
    off = max(_relative(value, expected[name]) for name, value in evidence.artifact.module.state_dict().items())
    yield claim(
        "same_function", off <= ROUNDING, before=0.0, after=off, counter="torch",
        bound="at most 2⁻²⁴ from the exact value, for every value in the file",
    )  # fmt: skip


def _claim(error: float, more: str) -> Claim:
    bound = f"at most {BOUND} of the largest output, in double precision on {BATCH} random inputs{more}"
    return claim("same_function", error <= BOUND, before=0.0, after=error, bound=bound, counter="torch")


def _relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest relative difference; infinite where one of the two is 0 and the other is not."""
    value, expected = value.double(), expected.double()
    off = torch.where(value == expected, 0.0, (value - expected).abs() / expected.abs())
    return float(off.max()) if off.numel() else 0.0
