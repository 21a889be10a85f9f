"""Patterns, distributions, given sparsities and given masks, from the options to the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch

from sift_cli import api, surgery
from sift_cli.core.plan import AttachMask, TransformPlan
from sift_cli.errors import Infeasible, PlanError, SiftError, Unreadable
from sift_cli.export import artifact
from sift_cli.models import LoadedModel, load
from sift_cli.surgery.given import GivenMasks
from sift_cli.transforms import TransformOptions, decide
from sift_cli.verify import Evidence
from sift_cli.verify.checks import iso_flop

SHAPE = (1, 3, 8, 8)
HIDDEN = ("layer1.conv1", "layer1.conv2", "layer2.conv1", "layer2.conv2", "layer2.shortcut.0")


def planned(sparsity: str = "3/4", net: str = "tiny_resnet", **options: Any) -> TransformPlan:
    return api.plan(f"nets:{net}", sparsity=sparsity, input_shape=SHAPE, **options)


def kept(plan: TransformPlan) -> dict[str, int]:
    return {layer.name: layer.nonzero_after for layer in plan.layers if layer.weight in plan.masked}


@pytest.mark.parametrize(("pattern", "mask"), [("2:8", "random"), ("2:8T", "topk"), ("block4x4", "random")])
def test_every_pattern_is_certified_on_the_file_and_its_export(pattern: str, mask: str, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    written = api.transform(
        "nets:tiny_resnet", output, input_shape=SHAPE, sparsity="3/4", match="layer", pattern=pattern, mask=mask
    )
    assert {claim.name for claim in written.certificate.claims} >= {"pattern", "iso_flop", "mask_cardinality"}
    # Widths double, so a quarter of the weights are as many as before.
    assert kept(written.plan) == {
        name: nets.TinyResNet.MACS[name] // cost for name, cost in zip(HIDDEN, (64, 64, 16, 16, 16), strict=True)
    }  # type: ignore[arg-type]
    read = artifact.load(output, arch="nets:tiny_resnet")
    for name, bits in read.masks.items():
        matrix = bits.to_bool().transpose(0, 2, 3, 1).reshape(bits.shape[0], -1)
        rows, columns = matrix.shape
        if pattern == "block4x4":
            tiles = matrix.reshape(rows // 4, 4, columns // 4, 4).sum(axis=(1, 3))
            assert set(tiles.flat) <= {0, 16}, name
            continue
        assert (matrix.reshape(rows, -1, 8).sum(axis=2) == 2).all(), name
        if pattern == "2:8T":
            assert (matrix.T.reshape(columns, -1, 8).sum(axis=2) == 2).all(), name
    onnx = api.export(output, tmp_path / "out.onnx", arch="nets:tiny_resnet")
    assert onnx.certificate.held
    assert "same_function" in {claim.name for claim in onnx.certificate.claims}


def test_under_match_model_blocks_are_spent_to_the_last_one_the_budget_pays_for() -> None:
    plan = planned(pattern="block4x4")
    # 16 weights of the layers at 4 × 4 positions are 256 MACs, the cheapest block there is.
    assert 0 <= plan.macs_before - plan.macs_after < 256
    assert all(count % 16 == 0 for count in kept(plan).values())


def test_a_pattern_fixes_the_sparsity() -> None:
    with pytest.raises(PlanError, match="2:4 keeps 1/2 of the weights, and the sparsity is 3/4") as caught:
        planned(pattern="2:4")
    assert caught.value.hint == "--sparsity 1/2"


def test_a_pattern_that_leaves_nothing_to_pay_stem_and_head_with_is_refused_under_match_model() -> None:
    with pytest.raises(Infeasible, match="fixed") as caught:
        planned(pattern="2:8")
    # 1/4 of twice the width squared is what the layers had; stem and head cost 27,648 + 320 MACs more.
    assert "524,288" in caught.value.message
    assert "496,320" in caught.value.message
    assert caught.value.hint is not None
    assert "--layer-pattern" in caught.value.hint


def test_an_unstructured_layer_takes_it_up() -> None:
    plan = planned(pattern="2:8", layer_pattern=("layer1.conv1=unstructured",))
    assert plan.macs_after == plan.macs_before
    assert kept(plan)["layer1.conv1"] == 36 * 64 - (27648 + 320) // 64
    assert kept(plan)["layer1.conv2"] == 36 * 64
    patterns = {edit.tensor: edit.pattern for edit in plan.edits if isinstance(edit, AttachMask)}
    assert patterns["layer1.conv1.weight"] == "unstructured"
    assert patterns["layer1.conv2.weight"] == "2:8"


def test_the_first_matching_glob_wins() -> None:
    plan = planned(
        match="layer",
        layer_pattern=("layer1.conv1=block2x2", "layer1.*=block4x4"),
        layer_sparsity=("layer1.conv2=0.9",),
    )
    patterns = {edit.tensor: edit.pattern for edit in plan.edits if isinstance(edit, AttachMask)}
    assert patterns["layer1.conv1.weight"] == "block2x2"
    assert patterns["layer1.conv2.weight"] == "block4x4"
    assert patterns["layer2.conv1.weight"] == "unstructured"
    assert kept(plan)["layer1.conv2"] == 9216 // 10 // 16 * 16  # blocks of 16 of at most a tenth


def test_a_width_that_was_rounded_up_has_no_room_for_its_pattern() -> None:
    with pytest.raises(Infeasible, match=r"layer1.conv1: it needs 2,592 weights .* 2,304"):
        planned("1/2", pattern="2:4", match="layer", multiple=8)


def test_grouped_layers_and_layers_too_small_for_the_pattern_are_unstructured() -> None:
    plan = planned(net="tiny_mobilenet", pattern="2:8", match="layer")
    patterns = {edit.tensor: (edit.pattern, edit.nonzero) for edit in plan.edits if isinstance(edit, AttachMask)}
    # Depthwise: 16 filters of 9 weights, at twice the width half of them. Pointwise: 64 rows of 32, a quarter.
    assert patterns == {"depthwise.weight": ("unstructured", 144), "pointwise.weight": ("2:8", 512)}
    assert any("unstructured, as they have groups" in note and "depthwise" in note for note in plan.notes)
    # 32 × 8 inputs, of which a group of 64 would need more.
    plan = planned(net="tiny_mobilenet", pattern="16:64", match="layer")
    assert {e.pattern for e in plan.edits if isinstance(e, AttachMask)} == {"unstructured"}


def test_the_width_of_table_11_is_noted() -> None:
    assert any("3.16" in note for note in planned("7/8", pattern="1:8", match="layer").notes)
    assert not any("3.16" in note for note in planned("3/4", pattern="2:8", match="layer").notes)


@pytest.mark.parametrize("distribution", ["er", "erk"])
def test_distributions_meet_the_budget_of_the_model(distribution: str) -> None:
    plan = planned(distribution=distribution)
    assert 0 <= plan.macs_before - plan.macs_after < 16
    density = {layer.name: layer.density for layer in plan.layers}
    # The 1×1 shortcut (64 outputs, 32 inputs) would be denser than dense by ERK: (64+32+2)/2048 to 36864's 134.
    assert density["layer2.shortcut.0"] > density["layer2.conv2"]
    assert density["layer1.conv1"] > density["layer2.conv2"]
    if distribution == "erk":
        assert density["layer2.shortcut.0"] == 1
        # (32+32+3+3)/9216 and (64+64+3+3)/36864
        ratio = (70 / 9216) / (134 / 36864)
        assert density["layer1.conv1"] / density["layer2.conv2"] == pytest.approx(ratio, rel=1 / 2000)


def test_given_sparsities_are_exact_and_the_others_take_up_the_rest() -> None:
    plan = planned(layer_sparsity=("layer2.conv2=0.9", "layer2.*=2/3"))
    assert kept(plan)["layer2.conv2"] == 36864 // 10
    assert kept(plan)["layer2.conv1"] == 18432 // 3
    assert kept(plan)["layer2.shortcut.0"] == 2048 // 3
    assert 0 <= plan.macs_before - plan.macs_after < 64
    roles = {layer.name: layer.role for layer in plan.layers}
    assert roles["layer2.conv2"] == "fixed"
    assert roles["layer1.conv1"] == "sparse"


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({"layer_sparsity": ("layer2.*=0.8",)}, "more than 552,192 (one weight less)"),
        ({"pattern": "block4x4"}, "more than 552,000 (one block less)"),
        ({"layer_sparsity": ("layer?.*=0.8",)}, "at most 552,256 MACs"),
        ({"match": "layer", "layer_sparsity": ("layer2.*=0.8",)}, "each of 2 transformed layers at exactly"),
        ({"match": "layer", "pattern": "2:8T"}, "each of 5 whose pattern or given sparsity leaves no choice at most"),
    ],
)
def test_what_iso_flop_claims(options: dict[str, Any], bound: str, tiny: Callable[..., LoadedModel]) -> None:
    model = tiny()
    written = surgery.transform(model, decide("wide", model, TransformOptions(Fraction(3, 4), **options)))
    claims = list(iso_flop.measure(Evidence(model, written, written)))
    assert len(claims) == 4
    assert all(claim.held and bound in claim.bound for claim in claims)


@pytest.mark.parametrize("options", [{"match": "layer", "pattern": "2:8T"}, {"layer_sparsity": ("layer2.*=0.8",)}])
def test_no_plan_may_spend_more(options: dict[str, Any], tiny: Callable[..., LoadedModel]) -> None:
    """One weight more than the layer had, or than the model had."""
    model = tiny()
    plan = decide("wide", model, TransformOptions(Fraction(3, 4), **options))
    layer = next(layer for layer in plan.layers if layer.name == "layer1.conv1")
    more = replace(layer, nonzero_after=layer.nonzero_after + 1)
    mask = AttachMask(layer.weight, more.nonzero_after, "random")
    edits = tuple(mask if isinstance(e, AttachMask) and e.tensor == layer.weight else e for e in plan.edits)
    forged = replace(plan, edits=edits, layers=tuple(more if x is layer else x for x in plan.layers))
    written = surgery.transform(model, forged)
    assert [claim.held for claim in iso_flop.measure(Evidence(model, written, written))] == [False] * 4


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"pattern": "2:4", "sparsity": "0"}, "at sparsity 0 there are no masks"),
        ({"mask": "topk", "init": "preserve"}, "--init preserve keeps the original weights.* mask"),
        ({"distribution": "erk", "match": "layer"}, "--match layer forbids that"),
        ({"distribution": "erdos"}, "no distribution"),
        ({"pattern": "8:2"}, "no pattern '8:2'"),
        ({"layer_sparsity": ("layer9.*=0.5",)}, "no sparse layer matches"),
        ({"layer_sparsity": ("fc=0.5",)}, "no sparse layer matches"),
        ({"layer_sparsity": ("layer1.*",)}, "not GLOB=VALUE"),
        ({"layer_sparsity": ("layer1.*=1.5",)}, "outside"),
        ({"layer_pattern": ("layer1.*=2:4x",)}, "no pattern"),
        ({"layer_sparsity": ("layer1.conv1=0.9999999",)}, "too few"),
        ({"layer_sparsity": ("layer1.*=0.5",), "pattern": "2:8", "match": "layer"}, "and its pattern 2:8 has one"),
        ({"layer_sparsity": ("layer1.*=0.5",), "match": "layer"}, r"needs 4,608 weights .* 2,304"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], why: str) -> None:
    with pytest.raises(PlanError, match=why):
        planned(**{"sparsity": "3/4", **options})


def test_topk_keeps_the_largest_weights_that_initialisation_gave(tiny: Callable[..., LoadedModel]) -> None:
    model = tiny()
    plan = decide("wide", model, TransformOptions(Fraction(3, 4), mask="topk"))
    without = replace(plan, edits=tuple(edit for edit in plan.edits if not isinstance(edit, AttachMask)))
    dense, _ = surgery.apply(model.module, without)
    sparse, masks = surgery.apply(model.module, plan)
    for name, mask in masks.items():
        weights, bits = dense.get_parameter(name).detach(), torch.from_numpy(mask.to_bool())
        assert weights[bits].abs().min() >= weights[~bits].abs().max()
        assert torch.equal(sparse.get_parameter(name).detach(), torch.where(bits, weights, 0.0))


def test_masks_of_another_artifact(tiny: Callable[..., LoadedModel], tmp_path: Path) -> None:
    first, other, output = (tmp_path / f"{name}.safetensors" for name in "abc")
    for seed, path in enumerate((first, other)):
        artifact.save(surgery.transform(tiny(), planned(seed=seed)), path)
    document = json.dumps(planned(seed=2, mask=first).to_json())
    assert str(tmp_path) not in document
    decided = TransformPlan.from_json(json.loads(document))

    def transform(**given: Any) -> api.Written:
        return api.transform("nets:tiny_resnet", output, input_shape=SHAPE, decided=decided, **given)

    # The plan alone does not know the masks, and takes no others.
    with pytest.raises(PlanError, match=r"takes the mask of 'layer1\.conv1\.weight' from a file"):
        transform()
    with pytest.raises(PlanError, match="not the one that was planned with"):
        transform(mask=other)
    with pytest.raises(PlanError, match="a plan is complete"):
        transform(mask="topk")
    assert not output.exists()
    assert transform(mask=first).certificate.held
    a, c = (artifact.load(path, arch="nets:tiny_resnet").masks for path in (first, output))
    assert {n: m.digest for n, m in a.items()} == {n: m.digest for n, m in c.items()}
    assert {m.rule for m in c.values()} == {"file"}


@pytest.mark.parametrize("stored", ["mask", "mask_of_bytes", "bool", "zeros", "nan", "prefixed"])
def test_masks_in_a_checkpoint(stored: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from sift_cli.sparsity.patterns import Gemm, parse

    plan = planned()
    shapes = {name: p.shape for name, p in surgery.apply(_meta(), plan)[0].named_parameters()}
    masks = {
        name: parse("unstructured").draw(Gemm(tuple(shapes[name])), count, seed=9, name=name).to_bool()
        for name, count in plan.masked.items()
    }
    weights = {name: np.where(mask, np.float32(-0.5), 0) for name, mask in masks.items()}
    tensors: dict[str, np.ndarray] = {
        "mask": weights | {f"{name}_mask": mask for name, mask in masks.items()},
        "mask_of_bytes": {f"{name}_mask": mask.astype(np.uint8) for name, mask in masks.items()},
        "bool": masks,
        "zeros": weights,
        "nan": {name: np.where(mask, np.float32(0.5), np.float32("nan")) for name, mask in masks.items()},
        "prefixed": {f"module.{name}": weight for name, weight in weights.items()},
    }[stored]
    path = tmp_path / "masks.safetensors"
    save_file(tensors, path)
    given = GivenMasks(path)
    with_masks = planned(mask=path)
    _, drawn = surgery.apply(load("nets:tiny_resnet", input_shape=SHAPE).module, with_masks, given)
    assert {n: m.digest for n, m in drawn.items()} == {n: given[n].digest for n in masks}
    assert all(np.array_equal(drawn[name].to_bool(), mask) for name, mask in masks.items())


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "masks.safetensors"
    plan = planned()
    shapes = {name: p.shape for name, p in surgery.apply(_meta(), plan)[0].named_parameters()}

    def masks() -> dict[str, np.ndarray]:
        made = {name: np.zeros(shapes[name], bool) for name in plan.masked}
        for name, count in plan.masked.items():
            made[name].reshape(-1)[:count] = True
        return made

    def refused(tensors: dict[str, np.ndarray], why: str) -> None:
        save_file(tensors, path)
        with pytest.raises(SiftError, match=why):
            api.transform("nets:tiny_resnet", tmp_path / "out", sparsity="3/4", input_shape=SHAPE, mask=path)

    name = "layer2.conv2.weight"
    refused({n: m for n, m in masks().items() if n != name}, "has no mask for 'layer2.conv2.weight'")
    more = masks()
    more[name].reshape(-1)[-1] = True
    refused(more, f"keeps {plan.masked[name] + 1:,} of 36,864 weights, and the plan {plan.masked[name]:,}")
    refused(masks() | {name: masks()[name].reshape(64, 576)}, r"has shape \(64, 576\), and the weight \(64, 64, 3, 3\)")
    refused({f"{n}_mask": m.astype(np.float32) * 2 for n, m in masks().items()}, "values other than 0 and 1")
    refused({"other": np.zeros(1, bool)}, "has no mask for")
    with pytest.raises(Unreadable, match="nowhere"):
        planned(mask=tmp_path / "nowhere")


def test_given_masks_have_to_have_the_pattern(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    plan = planned(match="layer", pattern="2:8")
    shapes = {name: p.shape for name, p in surgery.apply(_meta(), plan)[0].named_parameters()}
    tensors = {name: np.zeros(shapes[name], bool) for name in plan.masked}
    for name, count in plan.masked.items():
        tensors[name].reshape(-1)[:count] = True
    path = tmp_path / "masks.safetensors"
    save_file(tensors, path)
    decided = planned(match="layer", pattern="2:8", mask=path)
    with pytest.raises(PlanError, match="is not 2:8: it breaks the pattern in"):
        surgery.apply(load("nets:tiny_resnet", input_shape=SHAPE).module, decided, GivenMasks(path))


@pytest.mark.parametrize(
    "change",
    [
        {"pattern": "2:4" * 20},
        {"output_axis": -1},
        {"output_axis": 9},
        {"digest": "ab"},
        {"rule": "file"},
        {"rule": "file", "digest": "/etc/passwd"},
        {"rule": "block", "pattern": "2:8"},
        {"rule": "/etc/passwd"},
        {"path": "/etc/passwd"},
        {"pattern": 4},
    ],
)
def test_hostile_masks_in_a_plan(change: dict[str, Any]) -> None:
    document = planned(match="layer", pattern="2:8").to_json()
    assert TransformPlan.from_json(document)
    edit = next(edit for edit in document["edits"] if edit["edit"] == "attach_mask")
    edit.update(change)
    with pytest.raises(ValueError):  # noqa: PT011 - every one has its own words
        TransformPlan.from_json(document)


@pytest.mark.parametrize(
    "change", [{"pattern": "../evil"}, {"pattern": "2:4"}, {"output_axis": 7}, {"pattern": "2:8T"}]
)
def test_masks_of_a_plan_that_its_model_cannot_have(change: dict[str, Any]) -> None:
    plan = planned(net="tiny_mobilenet", match="layer", pattern="2:8")
    edits = tuple(
        replace(edit, **change) if isinstance(edit, AttachMask) and edit.tensor == "depthwise.weight" else edit
        for edit in plan.edits
    )
    with pytest.raises(PlanError):
        surgery.apply(load("nets:tiny_mobilenet", input_shape=SHAPE).module, replace(plan, edits=edits))


def test_on_the_command_line(sift: Callable[..., Any], tmp_path: Path) -> None:
    common = ("transform", "nets:tiny_resnet", "--input", "1x3x8x8", "--sparsity", "3/4", "--match", "layer")
    done = sift(*common, "--pattern", "2:8T", "--mask", "topk", "-o", "a.safetensors")
    assert done.exit_code == 0, done.output
    assert "pattern" in done.stdout
    done = sift(*common, "--pattern", "2:8T", "--mask", "a.safetensors", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    (tmp_path / "plan.json").write_text(done.stdout)
    plan = ("transform", "nets:tiny_resnet", "--input", "1x3x8x8", "--plan", "plan.json", "-o", "b.safetensors")
    assert sift(*plan, "--mask", "topk").exit_code == 2
    assert sift(*plan).exit_code == 5
    done = sift(*plan, "--mask", "a.safetensors")
    assert done.exit_code == 0, done.output
    done = sift(*common, "--pattern", "3:7")
    assert (done.exit_code, "--sparsity 4/7" in done.stderr) == (5, True)
    done = sift(*common, "--layer-sparsity", "layer1.*=0.8", "--layer-pattern", "layer2.*=block4x4", "--dry-run")
    assert done.exit_code == 0, done.output


def _meta() -> torch.nn.Module:
    return load("nets:tiny_resnet", input_shape=SHAPE, weights=False).module
