"""The sparse model costs what the dense one cost: counted from the plan, by two counters on the reloaded torch model, and
on its ONNX export. The four share no code where they could share a mistake."""

from __future__ import annotations

from collections.abc import Iterator

from sift_cli.core.certificate import Claim, claim
from sift_cli.core.counts import FlopReport
from sift_cli.core.plan import TransformPlan
from sift_cli.flops import count_module, count_onnx
from sift_cli.verify.evidence import Evidence


def measure(evidence: Evidence) -> Iterator[Claim]:
    plan, artifact = evidence.written.plan, evidence.artifact
    yield _claim(plan, "plan", plan.macs_before, plan.macs_after, _planned_layers(plan))
    for counter in ("fvcore", "dispatch"):
        before = count_module(evidence.original.module, evidence.original.inputs, counter=counter, nonzero={})
        after = count_module(artifact.module, artifact.inputs, counter=counter, nonzero=artifact.nonzero)
        yield _claim(plan, counter, before.dense, after.sparse, _by_weight(after))
    on_file = count_onnx(evidence.onnx)
    yield _claim(plan, "onnx", plan.macs_before, on_file.sparse, _by_weight(on_file))


def _claim(plan: TransformPlan, counter: str, before: int, after: int, layers: dict[str, int]) -> Claim:
    sparse = plan.sparse_layers
    if plan.options["match"] == "layer":
        kept = all(layers.get(layer.weight) == layer.macs_before for layer in sparse)
        bound = f"{plan.macs_after:,} MACs, each of {len(sparse)} sparse layers at exactly the MACs it had"
        return claim("iso_flop", kept and after == plan.macs_after, before=before, after=after, bound=bound, counter=counter)
    step = min((layer.positions for layer in sparse), default=1)
    bound = f"at most {before:,} MACs, and more than {before - step:,} (one weight less)"
    held = before == plan.macs_before and after == plan.macs_after and before - step < after <= before
    return claim("iso_flop", held, before=before, after=after, bound=bound, counter=counter)


def _planned_layers(plan: TransformPlan) -> dict[str, int]:
    return {layer.weight: layer.macs_after for layer in plan.layers}


def _by_weight(report: FlopReport) -> dict[str, int]:
    """MACs by weight name; in an ONNX graph a sparse weight goes by the name of its values."""
    macs: dict[str, int] = {}
    for layer in report.layers:
        if layer.weight is not None:
            name = layer.weight.removesuffix(".values").removesuffix(".bitmask")
            macs[name] = macs.get(name, 0) + layer.sparse
    return macs
