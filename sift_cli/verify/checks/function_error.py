"""How far the transformed model is from the function of the original, where it cannot be the same: ‖y − y'‖ / ‖y‖ of
the outputs, in double precision on random inputs.

No bound on it can be promised beforehand, it depends on the weights. What is claimed is the number, and that it is
below that of outputs of 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from sift_cli.core.certificate import Claim, claim
from sift_cli.verify.evidence import Evidence
from sift_cli.verify.functions import BATCH, relative_error


def measure(evidence: Evidence) -> Iterator[Claim]:
    error = relative_error(evidence.original, evidence.artifact.module)
    yield claim(
        "function_error", error < 1, before=0.0, after=error, counter="torch",
        bound=f"below 1, the error of zeros, on {BATCH} random inputs",
    )  # fmt: skip
