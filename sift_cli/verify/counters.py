"""MACs by every counter there is. The four share no code where they could share a mistake."""

from __future__ import annotations

from collections.abc import Iterator

from sift_cli.flops import count_module, count_onnx
from sift_cli.verify.evidence import Evidence
from sift_cli.verify.onnx_counts import exported_macs, macs_by_weight


def counted(evidence: Evidence) -> Iterator[tuple[str, dict[str, int], dict[str, int]]]:
    """Name of the counter, and MACs by weight name before and after: from the plan, by two counters on the reloaded
    torch model, and on its ONNX export."""
    plan, original, artifact = evidence.written.plan, evidence.original, evidence.artifact
    before: dict[str, int] = {}
    for counter in ("fvcore", "dispatch"):
        dense = count_module(original.module, original.inputs, counter=counter, nonzero={})
        sparse = count_module(artifact.module, artifact.inputs, counter=counter, nonzero=artifact.nonzero)
        before = macs_by_weight(dense, ())
        yield counter, before, macs_by_weight(sparse, artifact.masks)
    # The plan and the graph of the export have no original of their own: theirs is the one just counted.
    yield "plan", before, {layer.weight: layer.macs_after for layer in plan.layers} | {"": plan.other_macs[1]}
    yield "onnx", before, exported_macs(count_onnx(evidence.onnx), artifact)
