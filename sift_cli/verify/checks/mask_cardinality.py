"""Each mask keeps exactly as many weights as planned, and no weight outside a mask has a value."""

from __future__ import annotations

from collections.abc import Iterator

from sift_cli.core.certificate import Claim, claim
from sift_cli.surgery import masks_of
from sift_cli.verify.evidence import Evidence


def measure(evidence: Evidence) -> Iterator[Claim]:
    plan, artifact = evidence.written.plan, evidence.artifact
    planned = plan.masked
    counted = artifact.nonzero
    yield claim(
        "mask_cardinality",
        counted == planned,
        before=sum(planned.values()),
        after=sum(counted.values()),
        bound=f"{sum(planned.values()):,} kept weights in {len(planned)} tensors, each as planned",
        counter="bitmask",
    )
    parameters = dict(artifact.module.named_parameters())
    masks = masks_of(artifact.module).items()
    stray = sum(int(parameters[name].detach().masked_fill(mask, 0.0).count_nonzero()) for name, mask in masks)
    yield claim(
        "mask_cardinality", stray == 0, before=0, after=stray, bound="0 weights with a value outside their mask",
        counter="torch",
    )  # fmt: skip
