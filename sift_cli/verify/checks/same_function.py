"""The transformed model computes the function of the original: compared in double precision on random inputs.

In double precision because there the two differ by rounding alone, some 1e-15 of the output's scale, while a single
weight in the wrong place moves an output by far more than the bound.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from sift_cli.core.certificate import Claim, claim
from sift_cli.models.calling import Inputs, call, primary, random_like
from sift_cli.verify.evidence import Evidence

#: Largest difference allowed, as a part of the largest output.
BOUND = 1e-9
BATCH = 2


def measure(evidence: Evidence) -> Iterator[Claim]:
    inputs = random_like(evidence.original.inputs, BATCH, seed=1, dtype=torch.float64)
    before = _outputs(evidence.original.module, inputs)
    after = _outputs(evidence.artifact.module, inputs)
    scale = max(float(tensor.abs().max()) for tensor in before) or 1.0  # outputs of 0, as a zero head has them
    error = max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True)) / scale
    yield claim(
        "same_function", error <= BOUND, before=0.0, after=error, counter="torch",
        bound=f"at most {BOUND} of the largest output, in double precision on {BATCH} random inputs",
    )  # fmt: skip


def _outputs(module: nn.Module, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return primary(call(copy.deepcopy(module).double().eval(), inputs))
