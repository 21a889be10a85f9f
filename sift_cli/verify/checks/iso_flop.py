"""The sparse model costs what the dense one cost: counted from the plan, by two counters on the reloaded torch model,
and on its ONNX export. The four share no code where they could share a mistake."""

from __future__ import annotations

from collections.abc import Iterator

from sift_cli.core.certificate import Claim, claim
from sift_cli.core.plan import TransformPlan
from sift_cli.flops import count_module, count_onnx
from sift_cli.verify.evidence import Evidence
from sift_cli.verify.onnx_counts import macs_by_weight


def measure(evidence: Evidence) -> Iterator[Claim]:
    plan, artifact = evidence.written.plan, evidence.artifact
    yield _claim(
        plan, "plan", plan.macs_before, plan.macs_after, {layer.weight: layer.macs_after for layer in plan.layers}
    )
    for counter in ("fvcore", "dispatch"):
        before = count_module(evidence.original.module, evidence.original.inputs, counter=counter, nonzero={})
        after = count_module(artifact.module, artifact.inputs, counter=counter, nonzero=artifact.nonzero)
        yield _claim(plan, counter, before.dense, after.sparse, macs_by_weight(after, artifact.masks))
    in_graph = macs_by_weight(count_onnx(evidence.onnx), artifact.masks)
    yield _claim(plan, "onnx", plan.macs_before, sum(in_graph.values()), in_graph)


def _claim(plan: TransformPlan, counter: str, before: int, after: int, layers: dict[str, int]) -> Claim:
    sparse = plan.sparse_layers
    if plan.options["match"] == "layer":
        kept = all(layers.get(layer.weight) == layer.macs_before for layer in sparse)
        bound = f"{plan.macs_after:,} MACs, each of {len(sparse)} sparse layers at exactly the MACs it had"
        return claim(
            "iso_flop", kept and after == plan.macs_after, before=before, after=after, bound=bound, counter=counter
        )
    step = min((layer.positions for layer in sparse), default=1)
    bound = f"at most {before:,} MACs, and more than {before - step:,} (one weight less)"
    held = before == plan.macs_before and after == plan.macs_after and before - step < after <= before
    return claim("iso_flop", held, before=before, after=after, bound=bound, counter=counter)
