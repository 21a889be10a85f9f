"""Every check has to fail on a model that was broken on purpose, and to hold on one that was not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from sift_cli import registry, surgery
from sift_cli.core.certificate import Certificate
from sift_cli.core.masks import Mask, MaskSet
from sift_cli.core.plan import AttachMask
from sift_cli.errors import PlanError, VerificationFailed
from sift_cli.models import LoadedModel
from sift_cli.surgery import TransformedModel, attach_masks
from sift_cli.transforms import TransformOptions, decide
from sift_cli.verify import Evidence, certify
from sift_cli.verify.evidence import CHECKS

CHECK_MODULES = registry.discover(CHECKS)


def evidence(model: LoadedModel, kind: str = "wide", **options: Any) -> Evidence:
    plan = decide(kind, model, TransformOptions(Fraction(3, 4), **options))
    written = surgery.transform(model, plan)
    return Evidence(model, written, clone(written))


def clone(model: TransformedModel) -> TransformedModel:
    return replace(model, module=copy.deepcopy(model.module))


def one_weight_more(broken: TransformedModel) -> TransformedModel:
    """A mask that keeps one weight more than planned."""
    name, mask = next(iter(broken.masks.items()))
    kept = mask.to_bool().copy()
    kept[tuple(index[0] for index in np.nonzero(~kept))] = True
    masks = MaskSet({**broken.masks, name: Mask.from_bool(kept)})
    attach_masks(broken.module, masks)
    return replace(broken, masks=masks)


def one_mask_less(broken: TransformedModel) -> TransformedModel:
    """A layer that is dense after all."""
    name = next(iter(broken.masks))
    return replace(broken, masks=MaskSet({key: mask for key, mask in broken.masks.items() if key != name}))


def stray_value(broken: TransformedModel) -> TransformedModel:
    """A weight outside its mask that has a value."""
    name, mask = next(iter(broken.masks.items()))
    outside = tuple(int(index[0]) for index in np.nonzero(~mask.to_bool()))
    with torch.no_grad():
        broken.module.get_parameter(name)[outside] = 1e-6
    return broken


def other_head(broken: TransformedModel) -> TransformedModel:
    """One class more."""
    head = broken.module.get_submodule("fc")
    head.weight = torch.nn.Parameter(torch.cat([head.weight, head.weight[:1]]))  # type: ignore[arg-type]
    head.bias = torch.nn.Parameter(torch.cat([head.bias, head.bias[:1]]))  # type: ignore[arg-type]
    return broken


def one_bit(broken: TransformedModel) -> TransformedModel:
    """The last bit of one weight."""
    with torch.no_grad():
        broken.module.get_parameter("fc.bias").view(torch.int32)[0] ^= 1
    return broken


def one_weight_moved(broken: TransformedModel) -> TransformedModel:
    """One kept weight of one channel, one ten thousandth larger. Of the channel with the largest shift, which no ReLU
    hides."""
    row = broken.module.get_parameter("layer2.bn2.bias")[:32].argmax()
    weights = broken.module.get_parameter("layer2.conv2.weight").detach()[row].view(-1)
    weights[weights.nonzero()[0]] *= 1.0001
    return broken


def another_buffer(broken: TransformedModel) -> TransformedModel:
    """A value outside the state_dict."""
    broken.module.register_buffer("outside", torch.ones(1), persistent=False)
    return broken


def one_weight_elsewhere(broken: TransformedModel) -> TransformedModel:
    """A mask that keeps as many weights as planned, one of them in another group of its row."""
    name, mask = next(iter(broken.masks.items()))
    kept = mask.to_bool().copy()
    inputs, dropped = np.flatnonzero(kept[0, :8, 0, 0]), np.flatnonzero(~kept[0, 8:16, 0, 0])
    kept[0, inputs[0], 0, 0], kept[0, 8 + dropped[0], 0, 0] = False, True
    masks = MaskSet({**broken.masks, name: Mask.from_bool(kept)})
    attach_masks(broken.module, masks)
    return replace(broken, masks=masks)


def other_sign(broken: TransformedModel) -> TransformedModel:
    """Every weight of the first new layer negated, which is farther away than zeros."""
    layer = broken.module.get_submodule(next(iter(broken.plan.replaced)))
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.mul_(1 if name.startswith("u.") else -1)
    return broken


def other_head_sign(broken: TransformedModel) -> TransformedModel:
    """The outputs negated, which is farther away than zeros."""
    with torch.no_grad():
        for parameter in broken.module.get_submodule("fc").parameters():
            parameter.mul_(-1)
    return broken


#: What a sound model is transformed with where it has to be another one.
SOUND: dict[str, dict[str, Any]] = {
    "approximation": {"kind": "doped", "init": "preserve"},
    "pattern": {"match": "layer", "pattern": "2:8T"},
    "planned_macs": {"kind": "doped", "compat": "released"},
}
SABOTAGE: dict[str, list[Callable[[TransformedModel], TransformedModel]]] = {
    "approximation": [other_sign],
    "function_error": [other_head_sign],
    "iso_flop": [one_weight_more],
    "planned_macs": [one_weight_more, one_mask_less],
    "mask_cardinality": [one_weight_more, stray_value],
    "search_space": [one_mask_less],
    "io_shapes": [other_head],
    "pattern": [one_weight_more, one_weight_elsewhere],
    "roundtrip": [one_bit, one_weight_more, another_buffer],
    "same_function": [one_weight_moved],
}


@pytest.mark.parametrize("name", CHECK_MODULES)
def test_a_sound_model_holds(name: str, tiny: Callable[..., LoadedModel]) -> None:
    claims = list(CHECK_MODULES[name].measure(evidence(tiny(), **SOUND.get(name, {"init": "preserve"}))))
    assert claims
    assert all(claim.held and claim.name == name for claim in claims)


@pytest.mark.parametrize(("name", "sabotage"), [(n, s) for n in CHECK_MODULES for s in SABOTAGE.get(n, [None])])
def test_a_broken_model_fails(
    name: str, sabotage: Callable[[TransformedModel], TransformedModel] | None, tiny: Callable[..., LoadedModel]
) -> None:
    assert sabotage is not None, f"the check {name} has never been seen to fail: add a sabotage for it"
    sound = evidence(tiny(), **SOUND.get(name, {"init": "preserve"}))
    broken = Evidence(sound.original, sound.written, sabotage(sound.artifact))
    assert not all(claim.held for claim in CHECK_MODULES[name].measure(broken))


def test_every_counter_sees_one_weight(tiny: Callable[..., LoadedModel]) -> None:
    sound = evidence(tiny())
    broken = Evidence(sound.original, sound.written, one_weight_more(sound.artifact))
    verdicts = {claim.counter: claim.held for claim in CHECK_MODULES["iso_flop"].measure(broken)}
    # The plan is counted from the plan; the three that look at the artifact have to notice.
    assert verdicts == {"plan": True, "fvcore": False, "dispatch": False, "onnx": False}


def test_a_failure_carries_the_certificate(tiny: Callable[..., LoadedModel]) -> None:
    sound = evidence(tiny())
    with pytest.raises(VerificationFailed, match="roundtrip") as caught:
        certify(Evidence(sound.original, sound.written, one_bit(sound.artifact)))
    assert caught.value.certificate is not None
    assert [claim.name for claim in caught.value.certificate.broken] == ["roundtrip"]


def test_a_plan_cannot_make_up_what_the_original_cost(tiny: Callable[..., LoadedModel]) -> None:
    """A plan under match=layer that claims a larger original is caught by what the original really costs."""
    model = tiny()
    plan = decide("wide", model, TransformOptions(Fraction(3, 4), match="layer"))
    more = 9000
    layers = tuple(
        replace(layer, numel_before=more, nonzero_after=more) if layer.name == "layer1.conv1" else layer
        for layer in plan.layers
    )
    edits = tuple(
        replace(edit, nonzero=more) if isinstance(edit, AttachMask) and edit.tensor == "layer1.conv1.weight" else edit
        for edit in plan.edits
    )
    forged = surgery.transform(model, replace(plan, layers=layers, edits=edits))
    verdicts = [claim.held for claim in CHECK_MODULES["iso_flop"].measure(Evidence(model, forged, clone(forged)))]
    assert verdicts == [False] * 4


def test_a_plan_that_promises_nothing_is_measured_all_the_same(tiny: Callable[..., LoadedModel]) -> None:
    sound = evidence(tiny())
    silent = replace(sound.written, plan=replace(sound.written.plan, promises=()))
    certificate = certify(Evidence(sound.original, silent, sound.artifact))
    assert {claim.name for claim in certificate.claims} == {"iso_flop", "mask_cardinality", "io_shapes", "roundtrip"}
    assert not Certificate().held
    unknown = replace(sound.written, plan=replace(sound.written.plan, promises=("world_peace",)))
    with pytest.raises(PlanError, match="world_peace"):
        certify(Evidence(sound.original, unknown, sound.artifact))
