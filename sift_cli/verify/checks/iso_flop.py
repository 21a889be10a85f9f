"""The sparse model costs what the dense one cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from sift_cli.core.certificate import Claim, claim
from sift_cli.core.plan import AttachMask, TransformPlan
from sift_cli.sparsity.patterns import parse
from sift_cli.verify.counters import counted
from sift_cli.verify.evidence import Evidence


def measure(evidence: Evidence) -> Iterator[Claim]:
    for counter, before, after in counted(evidence):
        yield _claim(evidence.written.plan, counter, before, after)


def _claim(plan: TransformPlan, counter: str, before: Mapping[str, int], after: Mapping[str, int]) -> Claim:
    """The claim for MACs by weight name as ``counter`` found them."""
    dense, total = sum(before.values()), sum(after.values())
    held = dense == plan.macs_before and total == plan.macs_after
    units, coarse = _units(plan), _coarse(plan)
    sparse = plan.sparse_layers
    if plan.options["match"] == "layer":
        spent: Counter[str] = Counter()
        for weight, macs in after.items():
            spent[_layer_of(weight, plan)] += macs
        paid = {_layer_of(layer.weight, plan) for layer in sparse} | units.keys()
        if counter == "onnx":
            # The exporter folds the transpose of a dense linear weight, which then has no name; in torch all have one.
            paid -= {
                _layer_of(layer.weight, plan)
                for layer in plan.layers
                if layer.weight not in after and layer.numel_after
            }
        steps = {**units, **{name: step or before.get(name, 0) + 1 for name, step in coarse.items()}}
        held &= all(0 <= before.get(name, 0) - spent[name] < steps.get(name, 1) for name in paid)
        exact = f"each of {len(paid) - len(coarse)} transformed layers at exactly the MACs it had"
        bound = f"{plan.macs_after:,} MACs, {exact}"
        if units:
            bound += ", or less than one rank below"
        if coarse:
            bound += f", each of {len(coarse)} whose pattern or given sparsity leaves no choice at most at these"
    else:
        # Layers whose number of weights is fixed by a rule of their own cannot take up what is left.
        free = [coarse.get(x.weight, x.positions) for x in sparse if x.role == "sparse"]
        free = [step for step in free if step] or [x.positions for x in sparse if x.weight not in coarse]
        step = min(free, default=1) + sum(units.values())
        held &= total <= dense
        bound = f"at most {dense:,} MACs"
        if free or not coarse:
            held &= dense - step < total
            what = "block" if any(coarse.values()) else "weight"
            what = "rank less in each layer" if units else f"{what} less"
            bound += f", and more than {dense - step:,} (one {what})"
    return claim("iso_flop", held, before=dense, after=total, bound=bound, counter=counter)


def _layer_of(weight: str, plan: TransformPlan) -> str:
    """The weight of the dense layer that ``weight`` is a part in the place of; itself where there is none."""
    path = plan.place_of(weight)
    return weight if path is None else f"{path}.weight"


def _coarse(plan: TransformPlan) -> dict[str, int]:
    """Weight of each layer that cannot keep any number of weights → MACs from one number to the next that it can; 0
    where its pattern or its given sparsity allows only one."""
    found = {}
    masks = {edit.tensor: parse(edit.pattern) for edit in plan.edits if isinstance(edit, AttachMask)}
    for layer in plan.sparse_layers:
        pattern = masks[layer.weight]
        if layer.role == "fixed" or pattern.density is not None:
            found[layer.weight] = 0
        elif pattern.step > 1:
            found[layer.weight] = layer.positions * pattern.step
    return found


def _units(plan: TransformPlan) -> dict[str, int]:
    """Weight of each dense layer in whose place there are dense factors only → MACs of one rank of them: where nothing
    is sparse, a rank is the least there is to spend."""
    masked = {_layer_of(name, plan) for name in plan.masked}
    macs: Counter[str] = Counter()
    for layer in plan.layers:
        if layer.role == "factor" and (name := _layer_of(layer.weight, plan)) not in masked:
            macs[name] += layer.macs_after
    return {
        name: macs[name] // rank
        for path, edit in plan.replaced.items()
        if (name := f"{path}.weight") in macs and type(rank := edit.arguments.get("rank")) is int and rank
    }
