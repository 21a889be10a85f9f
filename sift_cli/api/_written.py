"""What a command leaves: a file that was read back, and measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sift_cli.core.certificate import Certificate
from sift_cli.core.plan import TransformPlan

if TYPE_CHECKING:
    from sift_cli.core.half import Storage
    from sift_cli.surgery import TransformedModel
    from sift_cli.verify.tuning import TunedLayer


@dataclass(frozen=True)
class Written:
    """A file or folder that was written, verified and read back.

    Attributes:
        path: The file or folder.
        certificate: What was measured on it.
        plan: The plan of the model in it, or None for a model that was not transformed.
        tuned: What was measured of its sparse layers, where that was asked for.
    """

    path: Path
    certificate: Certificate
    plan: TransformPlan | None
    tuned: tuple[TunedLayer, ...] = ()

    @property
    def bytes(self) -> int:
        files = self.path.iterdir() if self.path.is_dir() else (self.path,)
        return sum(file.stat().st_size for file in files)


def rewrite(model: TransformedModel, temporary: Path, companions: Path | None, dtype: Storage = "fp32") -> Certificate:
    """Write ``model`` again, verify what was read back, and store that.

    Nothing is taken over from an older certificate: that is what a file says of itself.
    """
    from sift_cli.export import artifact
    from sift_cli.models import LoadedModel, build
    from sift_cli.models.calling import draw
    from sift_cli.registry import discover
    from sift_cli.verify import Evidence, macs_claim, require
    from sift_cli.verify.evidence import CHECKS
    from sift_cli.verify.rewritten import certify_half, certify_rewritten

    architecture = model.plan.architecture
    exact, model = model, artifact.rounded(model, dtype)
    artifact.save(model, temporary, companions=companions, dtype=dtype)
    read = artifact.load(temporary, arch=architecture.callable)
    if dtype == "fp32":
        certificate = certify_rewritten(model, read.module, read.masks)
    else:
        certificate = certify_half(exact, model, read.module, read.masks, dtype)
    if model.masks.keys() == model.plan.masked.keys():
        # The original's MACs take its shapes and none of its weights.
        specs = model.plan.inputs
        dense = LoadedModel(build(architecture, device="meta"), draw(specs, device="meta"), architecture, {}, specs)
        evidence = Evidence(dense, model, read)
        patterned = ("pattern",) if "pattern" in model.plan.promises else ()
        for check in (macs_claim(model.plan), "mask_cardinality", *patterned):
            certificate += discover(CHECKS)[check].measure(evidence)
        require(certificate)
    artifact.add_certificate(temporary, certificate)
    return certificate
