"""The model costs what the plan says, which is not what the dense one cost: counts of the official code, which are
asked for by name. Measured by the counters of ``iso_flop``."""

from __future__ import annotations

from collections.abc import Iterator

from sift_cli.core.certificate import Claim, claim
from sift_cli.verify.counters import counted
from sift_cli.verify.evidence import Evidence


def measure(evidence: Evidence) -> Iterator[Claim]:
    plan = evidence.written.plan
    for counter, before, after in counted(evidence):
        dense, total = sum(before.values()), sum(after.values())
        yield claim(
            "planned_macs",
            dense == plan.macs_before and total == plan.macs_after,
            before=dense,
            after=total,
            bound=f"exactly {plan.macs_after:,} MACs, {total / dense:.3f} of the dense model's",
            counter=counter,
        )
