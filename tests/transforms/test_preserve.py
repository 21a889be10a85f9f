"""--init preserve on models in which a width is seen by more than the next layer: heads, halves, norms, tables."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import tinyhf
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sift_cli import surgery
from sift_cli.core.plan import Architecture, FillTensor, InputSpec, ResizeAxis, SetAttribute, SetConfig, TransformPlan
from sift_cli.errors import PlanError
from sift_cli.models import LoadedModel
from sift_cli.models.calling import random_like
from sift_cli.models.precise import InDouble
from sift_cli.surgery import TransformedModel
from sift_cli.transforms import TransformOptions, decide
from sift_cli.verify import Evidence
from sift_cli.verify.checks import function_error, same_function

WIDTH, HEADS, TOKENS = 32, 2, 5


class ConvAttention(nn.Module):
    """Attention over positions between BatchNorms.

    Its scale is a number that the constructor computes, and its table of positions meets the queries before they are
    scaled, as in BoTNet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, bias=False)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.qkv = nn.Conv2d(WIDTH, 3 * WIDTH, 1)
        self.scale = (WIDTH // HEADS) ** -0.5
        self.table = nn.Parameter(torch.randn(WIDTH // HEADS, 36))
        self.proj = nn.Conv2d(WIDTH, WIDTH, 1)
        self.last = nn.BatchNorm2d(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        q, k, v = (t.unflatten(1, (HEADS, -1)) for t in (q, k, v))
        scores = (q.transpose(2, 3) @ k) * self.scale + q.transpose(2, 3) @ self.table
        attended = (v @ scores.softmax(-1).transpose(2, 3)).flatten(1, 2).unflatten(2, x.shape[2:])
        return self.head(F.relu(self.last(x + self.proj(attended))).mean((2, 3)))


class Flattened(nn.Module):
    """Channels outside positions, or inside them, in front of a linear layer."""

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.conv = nn.Conv2d(3, WIDTH, 3)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.hidden = nn.Linear(36 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = x.permute(0, 2, 3, 1) if self.channels_last else x
        return self.head(F.relu(self.hidden(x.flatten(1))))


class Encoder(nn.Module):
    """Tokens through attention and a gated layer, with any norm and any kind of attention."""

    def __init__(self, attention: Callable[[], nn.Module], norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Linear(7, WIDTH, bias=False)
        self.norm1, self.attention = norm(), attention()
        self.norm2, self.up, self.down = norm(), nn.Linear(WIDTH, 6 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)
        self.norm3, self.head = norm(), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(self.norm1(x))
        gate, value = self.up(self.norm2(x)).chunk(2, -1)
        x = x + self.down(F.silu(gate) * value)
        return self.head(self.norm3(x))


class Multihead(nn.Module):
    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


class Fused(nn.Module):
    """One layer for q, k and v, in the order (3, heads, size of a head) or (heads, 3, size of a head)."""

    def __init__(self, heads_first: bool) -> None:
        super().__init__()
        self.heads_first = heads_first
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        if self.heads_first:
            qkv = self.qkv(x).view(batch, tokens, HEADS, 3, -1).permute(3, 0, 2, 1, 4)
        else:
            qkv = self.qkv(x).view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))


class OwnRms(nn.Module):
    """RMSNorm as libraries write it: another name, another name for ε, computed in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.variance_epsilon = 1e-2

    def forward(self, x: Tensor) -> Tensor:
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.variance_epsilon)).to(x.dtype)


def torch_rms() -> nn.Module:
    return nn.RMSNorm(WIDTH, eps=1e-2)  # large, so that forgetting it shows


def loaded(module: nn.Module, *shape: int) -> LoadedModel:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.dim() == 1:  # norms and biases too: what is 0 or 1 hides mistakes
                tensor.uniform_(0.5, 1.5) if "var" in name or "norm" in name else tensor.normal_(0, 0.3)
            elif name == "table":
                tensor.normal_(0, 0.3)
    specs = (InputSpec(shape),)
    return LoadedModel(module.eval(), (torch.randn(shape),), Architecture("factory", "nowhere:net"), {}, specs)


def tokens(attention: Callable[[], nn.Module], norm: Callable[[], nn.Module]) -> LoadedModel:
    return loaded(Encoder(attention, norm), 1, TOKENS, 7)


def hf(kind: str) -> LoadedModel:
    from sift_cli.models.sources.transformers import portable

    module = tinyhf.make(kind)
    ids = (torch.arange(12) * 7 % 101)[None]
    inputs = {"input_ids": ids, "decoder_input_ids": ids} if kind == "t5" else {"input_ids": ids}
    specs = tuple(InputSpec((1, 12), "int64", name, 101) for name in inputs)
    config = portable(module.config)  # type: ignore[arg-type]
    architecture = Architecture("transformers", type(module).__name__, {"config": config})
    return LoadedModel(module, inputs, architecture, {}, specs)


MODELS: dict[str, Callable[[], LoadedModel]] = {
    "convolutional attention": lambda: loaded(ConvAttention(), 1, 3, 8, 8),
    "flattened": lambda: loaded(Flattened(False), 1, 3, 8, 8),
    "flattened, channels last": lambda: loaded(Flattened(True), 1, 3, 8, 8),
    "multihead attention": lambda: tokens(lambda: Multihead(False), torch_rms),
    "multihead attention, eager": lambda: tokens(lambda: Multihead(True), torch_rms),
    "fused, q k v outside": lambda: tokens(lambda: Fused(False), OwnRms),
    "fused, heads outside": lambda: tokens(lambda: Fused(True), OwnRms),
    "t5": lambda: hf("t5"),
}


def plan_of(model: LoadedModel, sparsity: str = "1/2", **options: Any) -> TransformPlan:
    return decide("wide", model, TransformOptions(Fraction(sparsity), match="layer", init="preserve", **options))


def difference(model: LoadedModel, plan: TransformPlan) -> float:
    """Of the outputs, largest, where the plan is carried out in double precision; relative to the largest output."""
    double = copy.deepcopy(model.module).double()
    wide, _ = surgery.apply(double, plan)
    with torch.no_grad(), InDouble():
        if isinstance(model.inputs, dict):
            old, new = (m(**model.inputs).logits for m in (double, wide.double()))
        else:
            old, new = (m(*(t.double() for t in model.inputs)) for m in (double, wide))
    return float((old - new).abs().max() / old.abs().max())


def evidence(model: LoadedModel, plan: TransformPlan) -> Evidence:
    written: TransformedModel = surgery.transform(model, plan)
    return Evidence(model, written, written)


@pytest.mark.parametrize("sparsity", ["1/2", "3/4"])  # k = √2, which is no whole number, and 2
@pytest.mark.parametrize("name", MODELS)
def test_the_function_is_kept(name: str, sparsity: str) -> None:
    model = MODELS[name]()
    plan = plan_of(model, sparsity)
    assert "same_function" in plan.promises
    assert difference(model, plan) < 1e-12
    for claim in same_function.measure(evidence(model, plan)):
        assert claim.held, claim
    assert TransformPlan.from_json(plan.to_json()) == plan


def without(plan: TransformPlan, what: Callable[[Any], Any]) -> TransformPlan:
    """``plan`` with some edits changed, or left out where ``what`` returns None."""
    edits = [changed for edit in plan.edits if (changed := what(edit)) is not None]
    assert tuple(edits) != plan.edits
    return dataclasses.replace(plan, edits=tuple(edits))


def whole(edit: Any) -> Any:
    return dataclasses.replace(edit, parts=1) if isinstance(edit, ResizeAxis) else edit


def unscaled(edit: Any) -> Any:
    return None if isinstance(edit, FillTensor) and edit.distribution == "scale" else edit


def old_epsilon(edit: Any) -> Any:
    if isinstance(edit, SetConfig):
        ints = {path: pair for path, pair in edit.changes.items() if isinstance(pair[1], int)}
        return edit if len(ints) == len(edit.changes) else SetConfig(ints)
    return None if isinstance(edit, SetAttribute) and "eps" in edit.attribute else edit


#: What each model needs, and which of it can be left out with nobody noticing.
NEEDS = {
    "convolutional attention": {whole},
    "flattened": set(),
    "flattened, channels last": {whole},
    "multihead attention": {whole, unscaled, old_epsilon},
    "multihead attention, eager": {whole, unscaled, old_epsilon},
    "fused, q k v outside": {whole, unscaled, old_epsilon},
    "fused, heads outside": {whole, unscaled, old_epsilon},
    "t5": {whole, unscaled, old_epsilon},
}


@pytest.mark.parametrize(("name", "break_it"), [(name, needed) for name, all_ in NEEDS.items() for needed in all_])
def test_each_part_of_it_is_needed(name: str, break_it: Callable[[Any], Any]) -> None:
    model = MODELS[name]()
    broken = without(plan_of(model), break_it)
    assert difference(model, broken) > same_function.BOUND
    assert not all(claim.held for claim in same_function.measure(evidence(model, broken)))


def scales(plan: TransformPlan) -> dict[str, list[tuple[int, int, int | None, float]]]:
    found: dict[str, list[tuple[int, int, int | None, float]]] = {}
    for edit in plan.edits:
        if isinstance(edit, FillTensor) and edit.distribution == "scale":
            found.setdefault(edit.tensor, []).append((edit.axis, edit.start, edit.stop, edit.a))
    return found


def test_what_is_multiplied() -> None:
    # Heads of 16 become heads of 32.
    found = scales(plan_of(MODELS["fused, q k v outside"](), "3/4"))
    assert found["attention.qkv.weight"] == [(0, 0, 64, pytest.approx(2**0.5))]
    assert found["attention.qkv.bias"] == [(0, 0, 64, pytest.approx(2**0.5))]
    assert found["norm3.weight"] == [(0, 0, 64, pytest.approx(0.5**0.5))]
    found = scales(plan_of(MODELS["fused, heads outside"](), "3/4"))
    assert [rows[1:3] for rows in found["attention.qkv.weight"]] == [(0, 32), (96, 128)]
    # A number that the model keeps itself stays what it was.
    plan = plan_of(MODELS["convolutional attention"](), "3/4")
    assert not scales(plan)
    assert not [edit for edit in plan.edits if isinstance(edit, SetAttribute) and edit.attribute == "scale"]
    # T5 does not scale its attention. Its head is scaled by 1/√width, which the last norm would have to make up for as
    # it does for its own mean; the two cancel.
    found = scales(plan_of(hf("t5"), "3/4"))
    assert all("layer_norm" in name for name in found)
    assert "encoder.final_layer_norm.weight" in found
    assert "decoder.final_layer_norm.weight" not in found


def test_epsilon_goes_into_the_configuration() -> None:
    (edit,) = (edit for edit in plan_of(hf("t5"), "3/4").edits if isinstance(edit, SetConfig))
    assert edit.changes["layer_norm_epsilon"] == (1e-6, 5e-7)
    assert edit.changes["d_model"] == (32, 64)


def test_new_channels_in_front_of_a_norm_get_a_gradient() -> None:
    """They are 0, so what reads them may be anything, and then what writes them has a gradient."""
    model = MODELS["multihead attention"]()
    wide, _ = surgery.apply(model.module, plan_of(model, "3/4"))
    wide(*model.inputs).square().sum().backward()
    new = (torch.arange(2 * WIDTH) % WIDTH) >= WIDTH // HEADS  # the width is one of heads, each of which doubles
    assert wide.down.weight.grad[new].abs().sum(1).count_nonzero() == WIDTH  # type: ignore[union-attr, index, operator]
    assert wide.embed(*model.inputs)[..., new].count_nonzero() == 0  # type: ignore[operator]


def layer_norm() -> nn.Module:
    return nn.LayerNorm(WIDTH, eps=1e-2)


def uncentred(edit: Any) -> Any:
    return None if isinstance(edit, FillTensor) and edit.distribution == "center" else edit


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_layer_norm_is_refused_or_measured(kind: str) -> None:
    model = hf(kind)
    with pytest.raises(PlanError, match=r"is not exact with .*statistics over new channels") as refused:
        plan_of(model)
    assert "--allow-approximate" in str(refused.value.hint)
    plan = plan_of(model, allow_approximate=True)
    assert "same_function" not in plan.promises
    assert "function_error" in plan.promises
    (claim,) = function_error.measure(evidence(model, plan))
    wide, _ = surgery.apply(model.module, plan)
    inputs = random_like(model.inputs, function_error.BATCH, seed=1)
    with torch.no_grad():
        old, new = (m.double()(**inputs).logits for m in (copy.deepcopy(model.module), wide))
    assert claim.after == pytest.approx(float((old - new).norm() / old.norm()), rel=1e-6)
    # GPT-2 norms first; its embedding, which is the head's weight too, keeps its mean.
    assert 1e-6 < claim.after < {"gpt2": 0.01, "bert": 0.1}[kind]
    # Sums have a mean of their own in BERT, which norms last, and what is left out hardly shows beside it.
    for broken in (unscaled, uncentred) if kind == "gpt2" else ():
        (worse,) = function_error.measure(evidence(model, without(plan, broken)))
        assert worse.after > claim.after


def test_layer_norm_in_front_of_every_block_is_exact_but_for_rounding() -> None:
    model = tokens(lambda: Multihead(False), layer_norm)
    plan = plan_of(model, allow_approximate=True)
    centred = {(e.tensor, e.axis) for e in plan.edits if isinstance(e, FillTensor) and e.distribution == "center"}
    assert centred == {
        ("embed.weight", 0), ("attention.attention.out_proj.weight", 0), ("attention.attention.out_proj.bias", 0),
        ("down.weight", 0), ("down.bias", 0),
    }  # fmt: skip
    assert difference(model, plan) < 1e-12
    (claim,) = function_error.measure(evidence(model, plan))
    assert claim.after < 1e-6
    for broken in (unscaled, uncentred, old_epsilon):
        assert difference(model, without(plan, broken)) > 1e-4


def test_a_value_that_is_not_the_nearest_is_noticed() -> None:
    model = MODELS["multihead attention"]()
    found = evidence(model, plan_of(model))
    bias = found.artifact.module.get_parameter("head.bias").data
    bias[0] = torch.nextafter(bias[0], torch.tensor(torch.inf))
    kept, rounded = same_function.measure(found)
    assert kept.held
    assert not rounded.held


def test_rotary_positions_are_refused() -> None:
    for options in ({}, {"allow_approximate": True}):
        with pytest.raises(PlanError, match=r"cannot keep model.rotary_emb.*rotary positions"):
            plan_of(hf("llama"), **options)


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, WIDTH, 3), nn.Conv2d(WIDTH, WIDTH, 3), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)).mean((2, 3), keepdim=True)
        return self.head(x.mean((2, 3)))


class Uneven(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more, self.head = nn.Conv2d(3, WIDTH, 3), nn.Conv2d(WIDTH, 16, 1), nn.Linear(WIDTH + 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([x, self.more(x)], 1).mean((2, 3)))


@pytest.mark.parametrize(
    ("net", "match"),
    [(Shuffled, "no places for old channels in stem.weight"), (Uneven, "in unequal parts, as at stem.weight")],
)
def test_orders_that_cannot_be_kept_are_refused(net: type[nn.Module], match: str) -> None:
    with pytest.raises(PlanError, match=match):
        plan_of(loaded(net(), 1, 3, 8, 8))
