"""What the checks look at, and the run over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx

from sift_cli import registry
from sift_cli.core.certificate import Certificate
from sift_cli.core.plan import TransformPlan
from sift_cli.errors import PlanError, VerificationFailed
from sift_cli.export.onnx import to_onnx
from sift_cli.models import LoadedModel
from sift_cli.surgery import TransformedModel

CHECKS = "sift_cli.verify.checks"


@dataclass(frozen=True)
class Evidence:
    """The original, what was to be written, and what was read back.

    Attributes:
        original: The model before the transform.
        written: The transformed model as it was in memory.
        artifact: The transformed model as read back from the file.
    """

    original: LoadedModel
    written: TransformedModel
    artifact: TransformedModel

    @cached_property
    def onnx(self) -> onnx.ModelProto:
        """The ONNX export of the artifact."""
        return to_onnx(self.artifact.module, self.artifact.inputs, self.artifact.masks, {})


def macs_claim(plan: TransformPlan) -> str:
    """What is measured of the MACs of every transform: that they are the dense model's, unless the plan was asked for
    other ones by name, or has masks that were made in training."""
    return "planned_macs" if plan.options.get("compat") or "planned_macs" in plan.promises else "iso_flop"


def certify(evidence: Evidence) -> Certificate:
    """Measure what holds for every transform, and what the plan promises beyond.

    Raises:
        PlanError: The plan promises something that there is no check for.
        VerificationFailed: A claim does not hold; carries the certificate with all of them.
    """
    checks = registry.discover(CHECKS)
    certificate = Certificate()
    plan = evidence.written.plan
    for promise in dict.fromkeys((macs_claim(plan), "mask_cardinality", "io_shapes", "roundtrip", *plan.promises)):
        if promise not in checks:
            raise PlanError(f"the plan promises {promise!r}", hint=f"what can be promised: {', '.join(checks)}")
        certificate += checks[promise].measure(evidence)
    return require(certificate)


def require(certificate: Certificate) -> Certificate:
    """``certificate``, if all of it holds.

    Raises:
        VerificationFailed: A claim does not hold.
    """
    if not certificate.held:
        first = certificate.broken[0]
        raise VerificationFailed(
            f"the claim {first.name} does not hold by {first.counter}: {first.after}, but it has to be {first.bound}",
            certificate,
        )
    return certificate
