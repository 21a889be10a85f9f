"""What parallel, factorized, doped and low-rank layers have in common: counts, places, values, refusals."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import nets
import numpy as np
import pytest
import torch
from safetensors import safe_open

from sift_cli import api, surgery
from sift_cli.checkpoint import artifact as file_format
from sift_cli.core.plan import AttachMask, FillTensor, PlannedLayer, ReplaceLayer, TransformPlan
from sift_cli.errors import Infeasible, Malformed, PlanError
from sift_cli.export import artifact
from sift_cli.flops import cross_check
from sift_cli.layers import truncated_svd
from sift_cli.models import LoadedModel, load
from sift_cli.transforms import TransformOptions, decide
from sift_cli.verify import Evidence
from sift_cli.verify.checks import iso_flop

CIFAR = "builtin:cifar_resnet18"
MACS = 555_468_800
SPARSE = ("parallel", "factorized", "doped")
SPARSITIES = ("1/2", "3/4", "9/10")
Tiny = Callable[..., LoadedModel]


def plan_of(kind: str, model: LoadedModel, sparsity: str = "3/4", **options: Any) -> TransformPlan:
    return decide(kind, model, TransformOptions(Fraction(sparsity), **options))


@functools.cache
def cifar(kind: str, sparsity: str, **options: Any) -> TransformPlan:
    return api.plan(CIFAR, kind=kind, sparsity=sparsity, **options)


def parts(plan: TransformPlan, path: str) -> dict[str, PlannedLayer]:
    return {layer.name[len(path) + 1 :]: layer for layer in plan.layers if layer.name.startswith(f"{path}.")}


# Counts


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("kind", SPARSE)
def test_every_layer_costs_exactly_what_it_cost(kind: str, sparsity: str) -> None:
    plan = cifar(kind, sparsity)
    assert plan.macs_before == plan.macs_after == MACS
    assert len(plan.replaced) == 16
    for path in plan.replaced:
        (gone,) = (layer for layer in plan.layers if layer.name == path)
        assert (gone.role, gone.numel_after, gone.nonzero_after) == ("replaced", 0, 0)
        assert sum(part.macs_after for part in parts(plan, path).values()) == gone.macs_before
    stays = {layer.name: layer.role for layer in plan.layers if layer.role in ("first", "last", "shortcut", "kept")}
    shortcuts = {f"layer{i}.0.shortcut.0": "shortcut" for i in (2, 3, 4)}
    assert stays == {"conv1": "first", "fc": "last"} | shortcuts


def inner(channels: int, taps: int = 9) -> tuple[int, int, int]:
    """D_in, D_out and weights of a square convolution of the paper's networks."""
    return taps * channels, channels, taps * channels**2


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize(("path", "channels"), [("layer1.0.conv1", 64), ("layer4.1.conv2", 512)])
def test_the_papers_formulas(path: str, channels: int, sparsity: str) -> None:
    s, (d_in, d_out, dense) = Fraction(sparsity), inner(channels)
    branches = parts(cifar("parallel", sparsity), path)
    assert len(branches) == 1 / (1 - s)
    assert {branch.numel_after for branch in branches.values()} == {dense}
    assert all(abs(branch.nonzero_after - (1 - s) * dense) < 1 for branch in branches.values())

    factors = parts(cifar("factorized", sparsity), path)
    rank = math.ceil(dense / ((d_in + d_out) * (1 - s)))
    assert {name: part.numel_after for name, part in factors.items()} == {"u": d_in * rank, "v": rank * d_out}
    density = Fraction(dense, rank * (d_in + d_out))
    assert all(abs(part.nonzero_after - density * part.numel_after) < 1 for part in factors.values())

    doped = parts(cifar("doped", sparsity), path)
    rank = math.floor(s * dense / (d_in + d_out))
    kept = {name: (part.nonzero_after, part.numel_after) for name, part in doped.items()}
    u, v = d_in * rank, rank * d_out
    assert kept == {"u": (u, u), "v": (v, v), "theta": (dense - u - v, dense)}
    if channels == 64:
        assert rank == {"1/2": 28, "3/4": 43, "9/10": 51}[sparsity]


# Whole-network MACs of the official code at nominal sparsity, from the specification, to its three digits.
RELEASED = {
    "parallel": (".994", ".992", ".990"),
    "factorized": (".997", ".993", ".991"),
    "doped": (".745", ".437", ".191"),
}


@pytest.mark.parametrize(
    ("kind", "sparsity", "share"), [(k, s, r) for k in SPARSE for s, r in zip(SPARSITIES, RELEASED[k], strict=True)]
)
def test_the_counts_of_the_official_code(kind: str, sparsity: str, share: str) -> None:
    plan = cifar(kind, sparsity, compat="released")
    assert f"{plan.macs_after / MACS:.3f}" == f"0{share}"
    if sparsity == "3/4":
        model = load(CIFAR, weights=False)
        module, _ = surgery.apply(model.module, plan)
        for report in cross_check(module, model.inputs, nonzero=plan.masked):
            assert report.sparse == plan.macs_after
    assert {x.name for x in plan.layers if x.macs_after == x.macs_before} == {"conv1", "fc"}


def test_the_official_sigmas() -> None:
    sigmas = {
        kind: {(e.arguments["norm"], e.arguments["activation"]) for e in plan.replaced.values()}
        for kind in SPARSE
        for plan in [cifar(kind, "3/4", compat="released")]
    }
    assert sigmas == {"parallel": {(1, "identity")}, "factorized": {(1, "relu")}, "doped": {(0, "identity")}}


# Places


def test_first_last_depthwise_and_shortcuts_stay(tiny: Tiny) -> None:
    roles = {layer.name: layer.role for layer in plan_of("parallel", tiny()).layers}
    assert {name: role for name, role in roles.items() if "branches" not in name} == {
        "conv1": "first", "layer1.conv1": "replaced", "layer1.conv2": "replaced", "layer2.conv1": "replaced",
        "layer2.conv2": "replaced", "layer2.shortcut.0": "shortcut", "fc": "last",
    }  # fmt: skip
    plan = plan_of("doped", tiny("tiny_mobilenet"))
    assert set(plan.replaced) == {"pointwise"}
    assert "depthwise: kept, because it is depthwise" in plan.notes


@pytest.mark.parametrize("kind", SPARSE)
def test_any_subset_can_be_chosen(kind: str, tiny: Tiny) -> None:
    plan = plan_of(kind, tiny(), only=("layer2.*", "fc"), keep=("layer2.conv2",))
    assert set(plan.replaced) == {"layer2.conv1", "layer2.shortcut.0", "fc"}
    assert plan.macs_after == plan.macs_before == sum(nets.TinyResNet.MACS.values())
    with pytest.raises(PlanError, match="no layer matches 'layer9'"):
        plan_of(kind, tiny(), keep=("layer9",))
    with pytest.raises(PlanError, match="no layer is left to be replaced"):
        plan_of(kind, tiny("tiny_mobilenet"), keep=("pointwise",))


def test_layers_that_are_read_behind_their_back_stay(tiny: Tiny) -> None:
    plan = api.plan("nets:tiny_attention", kind="factorized", sparsity="1/2", input_shape=(1, 5, 16))
    assert set(plan.replaced) == {"up", "down"}
    assert plan.macs_after == plan.macs_before
    notes = " ".join(plan.notes)
    assert "attention.out_proj: kept, because it is read by MultiheadAttention without being called" in notes
    assert "tied: kept, because it shares its weight with again" in notes


def test_downsampling_shortcuts_of_torchvision() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    for name, stages in (("resnet18", (2, 3, 4)), ("resnet50", (1, 2, 3, 4))):
        plan = api.plan(f"torchvision:{name}", kind="doped", sparsity="1/2")
        shortcuts = {layer.name for layer in plan.layers if layer.role == "shortcut"}
        assert shortcuts == {f"layer{i}.0.downsample.0" for i in stages}
    roles = {layer.role for layer in api.plan("torchvision:mobilenet_v2", kind="doped", sparsity="1/2").layers}
    assert roles == {"first", "kept", "replaced", "factor", "sparse", "last"}  # its pointwise layers are no shortcuts


# σ


def test_sigma_is_the_papers_by_default(tiny: Tiny) -> None:
    edits = plan_of("factorized", tiny("tiny_plain")).replaced
    assert {path: (e.arguments["norm"], e.arguments["activation"]) for path, e in edits.items()} == {
        "hidden": (1, "relu"), "fc1": (0, "relu"), "fc2": (0, "relu"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize(
    ("asked", "sigma"),
    [("none", (0, "identity")), ("act", (0, "relu")), ("norm", (1, "identity")), ("norm-act", (1, "relu"))],
)
def test_sigma_as_asked_for(kind: str, asked: Any, sigma: tuple[int, str], tiny: Tiny) -> None:
    edits = plan_of(kind, tiny("tiny_plain"), nonlinearity=asked).replaced
    assert {(e.arguments["norm"], e.arguments["activation"]) for e in edits.values()} == {sigma}


def test_the_models_own_activation_is_taken(tiny: Tiny) -> None:
    plan = api.plan("nets:tiny_attention", kind="parallel", sparsity="1/2", input_shape=(1, 5, 16))
    assert {e.arguments["activation"] for e in plan.replaced.values()} == {"gelu"}
    assert any("the model's own activation" in note for note in plan.notes)


# Values


@pytest.mark.parametrize("kind", SPARSE)
def test_scratch_fills_every_new_tensor(kind: str, tiny: Tiny) -> None:
    model = tiny()
    plan = plan_of(kind, model)
    filled = {edit.tensor for edit in plan.edits if isinstance(edit, FillTensor)}
    new, _ = surgery.apply(model.module, plan)
    assert {name for name in new.state_dict() if not name.endswith("num_batches_tracked")} == filled
    for name, tensor in new.named_parameters():
        if tensor.dim() > 1:
            assert tensor.any(), name


def test_parts_start_by_the_shape_of_their_own(tiny: Tiny) -> None:
    fills = {e.tensor: e for e in plan_of("factorized", tiny("tiny_plain")).edits if isinstance(e, FillTensor)}
    # hidden: 16·9 inputs, 16 outputs; 2304 weights at rank ⌈2304 / (160 / 4)⌉ = 58. He by fan out: 58·9 and 16.
    assert fills["hidden.u.weight"].b == pytest.approx((2 / (58 * 9)) ** 0.5, rel=1e-12)
    assert fills["hidden.v.weight"].b == pytest.approx((2 / 16) ** 0.5, rel=1e-12)
    # fc2: 32 → ⌈1024 / (64 / 4)⌉ = 64 → 32. PyTorch's linear: uniform within 1 / √inputs.
    assert fills["fc2.u.weight"].b == pytest.approx(32**-0.5, rel=1e-12)
    assert fills["fc2.v.weight"].b == pytest.approx(1 / 8, rel=1e-12)


def test_parts_of_the_old_shape_start_as_the_model_starts_them() -> None:
    fills = {e.tensor: e for e in cifar("doped", "3/4").edits if isinstance(e, FillTensor)}
    # The model's constructor: He by fan out, 64·9.
    theta = fills["layer1.0.conv1.theta.weight"]
    assert (theta.distribution, theta.b) == ("normal", pytest.approx((2 / 576) ** 0.5, rel=1e-9))
    gaussian = api.plan("nets:tiny_gaussian", kind="parallel", sparsity="1/2", input_shape=(1, 16))
    fills = {e.tensor: e for e in gaussian.edits if isinstance(e, FillTensor)}
    for branch in ("hidden.branches.0.weight", "hidden.branches.1.weight"):
        assert (fills[branch].distribution, fills[branch].b) == ("normal", pytest.approx(0.02, rel=1e-9))


@pytest.mark.parametrize("net", ["tiny_resnet", "tiny_mobilenet", "tiny_plain"])
def test_a_partition_is_the_same_function_in_train_and_eval_mode(net: str, tiny: Tiny) -> None:
    model = tiny(net)
    new, masks = surgery.apply(model.module, plan_of("parallel", model, init="preserve"))
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for training in (False, True):
        with torch.no_grad():
            old_out = model.module.double().train(training)(x)
            new_out = new.double().train(training)(x)
        assert float((old_out - new_out).abs().max() / old_out.abs().max()) < 1e-12
    for path in {name.partition(".branches")[0] for name in masks}:
        kept = sum(mask.to_bool().astype(int) for name, mask in masks.items() if name.startswith(f"{path}.branches"))
        assert (kept == 1).all()  # every weight in exactly one branch


def test_an_approximation_is_measured(tiny: Tiny, tmp_path: Any) -> None:
    """Against numpy: θ keeps the largest weights, U and V the best low rank of the rest."""
    model = tiny("tiny_plain")
    weight = model.module.get_parameter("fc2.weight").detach().numpy().astype(np.float64)
    written = api.transform(
        "nets:tiny_plain", tmp_path / "x.safetensors", input_shape=(1, 3, 8, 8), kind="doped", sparsity="1/2",
        init="preserve", only=("fc2",),
    )  # fmt: skip
    rank = 512 // 64
    kept = 1024 - rank * 64
    rest = weight.copy()
    rest.reshape(-1)[np.argsort(-np.abs(weight).reshape(-1))[:kept]] = 0
    lost = np.linalg.svd(rest, compute_uv=False)[rank:]
    wanted = np.sqrt((lost**2).sum()) / np.linalg.norm(weight)
    errors = [claim.after for claim in written.certificate.claims if claim.name == "approximation"]
    assert errors == [pytest.approx(wanted, rel=1e-5)] * 2  # of the layer, and of all layers together
    assert "same_function" not in {claim.name for claim in written.certificate.claims}


def test_a_rank_beyond_that_of_the_matrix_is_exact_without_masks() -> None:
    matrix = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, v = truncated_svd(matrix, 7)
    assert (u.shape, v.shape) == ((7, 6), (4, 7))
    torch.testing.assert_close(v @ u, matrix, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(u @ u.T, v.T @ v, rtol=1e-12, atol=1e-12)  # the singular values, shared evenly


# Refusals


def test_a_sparsity_without_a_whole_number_of_branches(tiny: Tiny) -> None:
    with pytest.raises(PlanError, match=r"1/\(1−s\) is 2.5") as caught:
        plan_of("parallel", tiny(), "3/5")
    assert "1/2 or 2/3" in str(caught.value.hint)
    plan = plan_of("parallel", tiny(), "3/5", snap=True)
    assert plan.sparsity == "2/3"
    assert len(parts(plan, "layer1.conv1")) == 3
    assert any("snapped to 2/3" in note for note in plan.notes)
    assert plan_of("parallel", tiny(), "1/10", snap=True).sparsity == "1/2"  # 0 would be no transform


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("wide", {"snap": True}, "the transform wide has no option snap"),
        ("doped", {"multiple": 8}, "the transform doped has no option multiple"),
        ("parallel", {"width": Fraction(2)}, "the transform parallel has no option width"),
        ("parallel", {"init": "preserve", "nonlinearity": "act"}, "--nonlinearity act changes"),
        ("doped", {"init": "preserve", "compat": "released"}, "for training from scratch"),
        ("lowrank", {"init": "preserve"}, "the transform lowrank has no --init preserve"),
    ],
)
def test_options_are_refused_and_not_ignored(kind: str, options: dict[str, Any], message: str, tiny: Tiny) -> None:
    with pytest.raises(PlanError, match=message):
        plan_of(kind, tiny(), **options)


def test_sparsity_0_says_so(tiny: Tiny) -> None:
    for kind in (*SPARSE, "lowrank"):
        plan = plan_of(kind, tiny(), "0")
        assert not plan.edits
        assert plan.promises[-1] == "same_function"
        assert "sparsity 0 changes nothing" in plan.notes
        assert plan.macs_after == plan.macs_before


# Low rank


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_low_rank_costs_what_wide_costs(sparsity: str) -> None:
    plan = cifar("lowrank", sparsity)
    wide = {layer.name: layer.numel_after for layer in cifar("wide", sparsity).layers}
    width = {"1/2": 90, "3/4": 128, "9/10": 202}[sparsity]
    for path in plan.replaced:
        u, v = parts(plan, path)["u"], parts(plan, path)["v"]
        rank = int(plan.replaced[path].arguments["rank"])
        assert u.numel_after // rank * (v.numel_after // rank) == wide[path]  # D_in · D_out at the same widths
        assert sum(part.macs_after for part in (u, v)) <= next(x.macs_before for x in plan.layers if x.name == path)
    u, v = parts(plan, "layer1.0.conv1").values()
    assert u.numel_after // (9 * width) == v.numel_after // width
    step = min((u.macs_after + v.macs_after) // rank for rank in [u.numel_after // (9 * width)])
    assert MACS - 2 * step * 17 < plan.macs_after <= MACS


def test_low_rank_by_the_formula() -> None:
    plan = cifar("lowrank", "3/4", match="layer")
    # D_in = 9·64, D_out = 64, k = 2: d = 36864 / (2 · 640).
    assert plan.replaced["layer1.0.conv1"].arguments["rank"] == 28
    released = cifar("lowrank", "3/4", compat="released")
    assert released.replaced["layer1.0.conv1"].arguments["rank"] == 29  # rounded up
    alone = cifar("lowrank", "0", width=Fraction(1))
    assert alone.replaced["layer1.0.conv1"].arguments["rank"] == 57  # 36864 / 640
    assert not any(isinstance(edit, AttachMask) for edit in alone.edits)
    assert alone.macs_after <= MACS
    ranks = [MACS - alone.macs_after, sum(x.positions * 10 * x.numel_before for x in alone.layers)]
    assert 0 <= ranks[0] < ranks[1]


def test_a_layer_too_small_for_one_rank(tiny: Tiny) -> None:
    with pytest.raises(Infeasible, match="lowrank is not feasible on fc1: it needs 3,072 weights for one rank"):
        plan_of("lowrank", tiny("tiny_plain"), "0", width=Fraction(64), only=("fc1",))


# Surgery


def test_a_plan_that_replaces_what_is_not_there(tiny: Tiny) -> None:
    model = tiny()
    for edits, message in [
        ([ReplaceLayer("nowhere", "doped", {"rank": 1})], "that the model does not have"),
        ([ReplaceLayer("bn1", "doped", {"rank": 1})], "which is a BatchNorm2d"),
        ([ReplaceLayer("fc", "wide", {})], "there is no layer 'wide'"),
        ([ReplaceLayer("fc", "doped", {"rank": 1, "norm": 0, "activation": "x"})], "no activation 'x'"),
        ([FillTensor("fc.weight", "original")], "from a layer that it does not replace"),
        ([FillTensor("fc.weight", "svd_u")], "from a layer that it does not replace"),
    ]:
        with pytest.raises(PlanError, match=message):
            surgery.apply_edits(model.module, edits)
    parallel = ReplaceLayer("fc", "parallel", {"branches": 2, "norm": 0, "activation": "identity"})
    with pytest.raises(PlanError, match="has no factors"):
        surgery.apply_edits(model.module, [parallel, FillTensor("fc.branches.0.weight", "svd_u")])
    doped = ReplaceLayer("fc", "doped", {"rank": 2, "norm": 0, "activation": "identity"})
    with pytest.raises(PlanError, match="does not have in this shape"):
        surgery.apply_edits(model.module, [doped, FillTensor("fc.u.weight", "original")])


def test_replacing_draws_nothing_and_keeps_what_is_frozen(tiny: Tiny) -> None:
    model = tiny()
    model.module.get_parameter("fc.weight").requires_grad_(False)
    state = torch.random.get_rng_state()
    edit = ReplaceLayer("fc", "parallel", {"branches": 2, "norm": 1, "activation": "relu"})
    new, _ = surgery.apply_edits(model.module, [edit])
    assert torch.equal(torch.random.get_rng_state(), state)
    layer = new.get_submodule("fc")
    assert not any(tensor.any() for tensor in layer.state_dict().values())
    assert not any(parameter.requires_grad for parameter in layer.parameters())


# Plans in files


@pytest.mark.parametrize(
    "change",
    [
        {"module": ""},
        {"layer": "os.system"},
        {"layer": 3},
        {"arguments": {"rank": -1}},
        {"arguments": {"rank": 2**31}},
        {"arguments": {"rank": 2.0}},
        {"arguments": {"rank": True}},
        {"arguments": {"rank": [1]}},
        {"arguments": {"a b": 1}},
        {"arguments": {"activation": "x" * 33}},
        {"arguments": {f"a{i}": 1 for i in range(9)}},
        {"arguments": None},
        {"more": 1},
    ],
    ids=str,
)
def test_a_replacement_that_no_transform_would_write(change: dict[str, Any], tiny: Tiny) -> None:
    document = plan_of("doped", tiny()).to_json()
    assert TransformPlan.from_json(document).to_json() == document
    edit = next(edit for edit in document["edits"] if edit["edit"] == "replace_layer")
    edit.update(change)
    with pytest.raises(ValueError, match=r"plan"):
        TransformPlan.from_json(document)


@pytest.mark.parametrize(
    ("kind", "arguments"), [("parallel", {"branches": 10**9}), ("factorized", {"rank": 2**31 - 1})], ids=str
)
def test_a_file_whose_plan_asks_for_too_much(kind: str, arguments: dict[str, int], tiny: Tiny, tmp_path: Any) -> None:
    """The plan is tried on the meta device before anything is asked of memory."""
    path = tmp_path / "x.safetensors"
    model = tiny()
    artifact.save(surgery.transform(model, plan_of(kind, model)), path)
    with safe_open(path, "np") as file:
        document = json.loads(file.metadata()["sift.plan"])
    edit = next(edit for edit in document["edits"] if edit["edit"] == "replace_layer")
    edit["arguments"].update(arguments)
    file_format.add_metadata(path, {"sift.plan": json.dumps(document)})
    with pytest.raises(Malformed, match=r"its plan|tensor"):
        artifact.load(path, arch="nets:tiny_resnet")


def test_a_layer_one_rank_short_is_not_iso_flop(tiny: Tiny) -> None:
    """Where nothing is sparse a layer may be short by less than one rank, and not by one."""
    model = tiny()
    plan = plan_of("lowrank", model, "0", width=Fraction(1), match="layer")

    def with_rank(less: int) -> list[bool]:
        path = "layer2.conv2"
        rank = int(plan.replaced[path].arguments["rank"])
        edits = tuple(
            replace(e, arguments={**e.arguments, "rank": rank - less})
            if isinstance(e, ReplaceLayer) and e.module == path
            else e
            for e in plan.edits
        )
        rows = tuple(
            replace(x, numel_after=n, nonzero_after=n)
            if x.name.startswith(f"{path}.") and (n := x.numel_after // rank * (rank - less))
            else x
            for x in plan.layers
        )
        written = surgery.transform(model, replace(plan, edits=edits, layers=rows))
        return [claim.held for claim in iso_flop.measure(Evidence(model, written, written))]

    assert with_rank(0) == [True] * 4
    assert with_rank(1) == [False] * 4
