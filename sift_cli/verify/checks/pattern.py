"""Each mask has the pattern that was planned: every group of N:M, every row and column of every tile, every block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sift_cli.core.certificate import Claim, claim
from sift_cli.core.plan import AttachMask
from sift_cli.sparsity.patterns import Gemm, parse
from sift_cli.surgery import masks_of
from sift_cli.verify.evidence import Evidence


def measure(evidence: Evidence) -> Iterator[Claim]:
    masks = masks_of(evidence.artifact.module)
    planned, broken = Counter[str](), Counter[str]()
    for edit in evidence.written.plan.edits:
        if isinstance(edit, AttachMask) and edit.pattern != "unstructured":
            planned[edit.pattern] += 1
            kept = masks[edit.tensor].cpu().numpy() if edit.tensor in masks else None
            gemm = None if kept is None else Gemm(kept.shape, edit.output_axis)
            found = 1 if kept is None or gemm is None else parse(edit.pattern).violations(gemm, kept)
            broken[edit.pattern] += found
    for name, count in sorted(planned.items()):
        yield claim(
            "pattern", not broken[name], before=0, after=broken[name], counter="bitmask",
            bound=f"0 places in {count} masks that are not {name}",
        )  # fmt: skip
