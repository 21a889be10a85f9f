"""The sparse model costs what the dense one cost: counted from the plan, by two counters on the reloaded torch model,
and on its ONNX export. The four share no code where they could share a mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sift_cli.core.certificate import Claim, claim
from sift_cli.core.plan import TransformPlan
from sift_cli.flops import count_module, count_onnx
from sift_cli.verify.evidence import Evidence
from sift_cli.verify.onnx_counts import macs_by_weight


def measure(evidence: Evidence) -> Iterator[Claim]:
    plan, original, artifact = evidence.written.plan, evidence.original, evidence.artifact
    before: dict[str, int] = {}
    for counter in ("fvcore", "dispatch"):
        dense = count_module(original.module, original.inputs, counter=counter, nonzero={})
        sparse = count_module(artifact.module, artifact.inputs, counter=counter, nonzero=artifact.nonzero)
        before = macs_by_weight(dense, ())
        yield _claim(plan, counter, before, macs_by_weight(sparse, artifact.masks))
    # The plan and the graph of the export have no original of their own: theirs is the one just counted.
    planned = {layer.weight: layer.macs_after for layer in plan.layers} | {"": plan.other_macs[1]}
    yield _claim(plan, "plan", before, planned)
    yield _claim(plan, "onnx", before, macs_by_weight(count_onnx(evidence.onnx), artifact.masks))


def _claim(plan: TransformPlan, counter: str, before: Mapping[str, int], after: Mapping[str, int]) -> Claim:
    """The claim for MACs by weight name as ``counter`` found them."""
    dense, total = sum(before.values()), sum(after.values())
    held = dense == plan.macs_before and total == plan.macs_after
    sparse = plan.sparse_layers
    if plan.options["match"] == "layer":
        held &= all(after.get(layer.weight) == before.get(layer.weight) for layer in sparse)
        bound = f"{plan.macs_after:,} MACs, each of {len(sparse)} sparse layers at exactly the MACs it had"
    else:
        # Layers whose number of weights is fixed by a rule of their own cannot take up what is left.
        free = [layer.positions for layer in sparse if layer.role == "sparse"]
        step = min(free or [layer.positions for layer in sparse], default=1)
        held &= dense - step < total <= dense
        bound = f"at most {dense:,} MACs, and more than {dense - step:,} (one weight less)"
    return claim("iso_flop", held, before=dense, after=total, bound=bound, counter=counter)
