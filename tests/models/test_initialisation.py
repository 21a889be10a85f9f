"""What a model is said to be drawn from, against closed forms, against its values, and against larger models of its
kind."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from sift_cli.core.plan import Architecture
from sift_cli.models import build
from sift_cli.models.initialisation import Draw, Initialisation, initialisation
from sift_cli.models.initialisation.segments import MAX_RUNS, Segments

ROOT_HALF = math.sqrt(0.5)
NEEDS = {"torchvision": "torchvision", "timm": "timm", "gpt2": "transformers", "bert": "transformers",
         "llama": "transformers", "t5": "transformers", "clip": "transformers"}  # fmt: skip


def architecture(text: str, **kwargs: Any) -> Architecture:
    source, _, name = text.partition(":")
    package = NEEDS.get(name if source == "initnets" else source)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    return Architecture("factory", text, kwargs) if source == "initnets" else Architecture(source, name, kwargs)


def normal(std: float) -> Draw:
    return Draw("normal", 0.0, std)


def uniform(bound: float) -> Draw:
    return Draw("uniform", -bound, bound)


ZERO, ONE = Draw("constant", 0.0), Draw("constant", 1.0)


def whole(found: Initialisation) -> dict[str, Draw]:
    """Name → distribution, for parameters that have one."""
    return {name: parts[0].draw for name, parts in found.parts.items() if len(parts) == 1}


def same(left: Draw, right: Draw) -> bool:
    """Up to rounding, and up to a cut beyond 3 σ, which no sample shows."""
    close = math.isclose(left.a, right.a, rel_tol=1e-9) and math.isclose(left.b, right.b, rel_tol=1e-9)
    return left.distribution == right.distribution and left.cut == right.cut and close


def expect(found: Initialisation, wanted: Mapping[str, Draw]) -> None:
    draws = whole(found)
    assert {name: draws[name] for name in wanted if not same(draws[name], wanted[name])} == {}


# Closed forms, each worked out from the model's definition.


def test_resnet18() -> None:
    """He's normal by fan out, norms at 1 and 0, PyTorch's linear layer: uniform within 1/√inputs."""
    found = initialisation(architecture("torchvision:resnet18"))
    widths = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
    wanted = {
        f"{stage}.1.conv{i}.weight": normal(math.sqrt(2 / (9 * w))) for stage, w in widths.items() for i in (1, 2)
    }
    wanted |= {f"{stage}.0.downsample.0.weight": normal(math.sqrt(2 / w)) for stage, w in widths.items() if w > 64}
    wanted |= {
        "conv1.weight": normal(math.sqrt(2 / (49 * 64))),
        "fc.weight": uniform(512**-0.5),
        "fc.bias": uniform(512**-0.5),
    }
    wanted |= {"layer1.1.bn2.weight": ONE, "layer1.1.bn2.bias": ZERO}
    expect(found, wanted)
    assert len(found.parts) == 62
    assert not found.notes


def test_mobilenet_v2() -> None:
    """He's normal by fan out; a depthwise 3×3 has its groups' outputs, as torch counts them: 32 · 9."""
    found = initialisation(architecture("torchvision:mobilenet_v2"))
    expect(found, {
        "features.0.0.weight": normal(math.sqrt(2 / (9 * 32))),
        "features.1.conv.0.0.weight": normal(math.sqrt(2 / (9 * 32))),
        "features.1.conv.1.weight": normal(math.sqrt(2 / 16)),
        "classifier.1.weight": normal(0.01),
        "classifier.1.bias": ZERO,
    })  # fmt: skip


def test_vit_b_16() -> None:
    """Patches by LeCun's normal, a head of 0, positions at .02, MLPs by Glorot's uniform with biases of 1e-6, packed
    projections by Glorot's uniform as one matrix."""
    found = initialisation(architecture("torchvision:vit_b_16"))
    block = "encoder.layers.encoder_layer_3"
    expect(found, {
        "conv_proj.weight": normal(math.sqrt(1 / (3 * 16 * 16))),
        "class_token": ZERO,
        "encoder.pos_embedding": normal(0.02),
        "heads.head.weight": ZERO,
        f"{block}.mlp.0.weight": uniform(math.sqrt(6 / (768 + 3072))),
        f"{block}.mlp.0.bias": normal(1e-6),
        f"{block}.self_attention.in_proj_weight": uniform(math.sqrt(6 / (768 + 3 * 768))),
        f"{block}.self_attention.in_proj_bias": ZERO,
        f"{block}.self_attention.out_proj.weight": uniform(768**-0.5),
        f"{block}.ln_1.weight": ONE,
    })  # fmt: skip


def test_timm() -> None:
    found = initialisation(architecture("timm:vit_tiny_patch16_224"))
    expect(found, {"pos_embed": normal(0.02), "blocks.4.attn.qkv.weight": normal(0.02), "blocks.4.attn.qkv.bias": ZERO})
    found = initialisation(architecture("timm:convnext_atto"))
    expect(found, {"stages.1.blocks.0.gamma": Draw("constant", 1e-6), "stages.1.blocks.0.conv_dw.weight": normal(0.02)})
    # JAX's: Glorot's uniform, positions at .02, patches by LeCun's normal cut off at 2 σ and widened to make up for it.
    found = initialisation(architecture("timm:vit_tiny_patch16_224", weight_init="jax"))
    patches = whole(found)["patch_embed.proj.weight"]
    assert patches.cut
    assert patches.b == pytest.approx(math.sqrt(1 / (3 * 16 * 16)) / 0.87962566103423978, rel=1e-9)
    expect(
        found, {"blocks.4.attn.proj.weight": uniform(math.sqrt(6 / (192 + 192))), "blocks.4.mlp.fc1.bias": normal(1e-6)}
    )


def test_transformers() -> None:
    found = initialisation(architecture("initnets:gpt2"))
    block = "transformer.h.1"
    expect(found, {
        f"{block}.attn.c_attn.weight": normal(0.02),
        f"{block}.attn.c_proj.weight": normal(0.02 / math.sqrt(2 * 3)),  # residual projections: over √(2 · layers)
        f"{block}.mlp.c_proj.weight": normal(0.02 / math.sqrt(2 * 3)),
        f"{block}.mlp.c_fc.bias": ZERO,
        f"{block}.ln_1.weight": ONE,
        "transformer.wte.weight": normal(0.02),
    })  # fmt: skip
    found = initialisation(architecture("initnets:bert"))
    rows = found.parts["bert.embeddings.word_embeddings.weight"]
    assert [(part.start, part.stop, part.draw) for part in rows] == [(0, 1, ZERO), (1, 50, normal(0.02))]
    expect(found, {"bert.encoder.layer.1.attention.self.query.weight": normal(0.02), "cls.predictions.bias": ZERO})
    found = initialisation(architecture("initnets:llama"))
    expect(found, {"model.layers.1.mlp.down_proj.weight": normal(0.02), "model.layers.1.input_layernorm.weight": ONE})


def test_cuts() -> None:
    """At 2 σ it is said, at 100 σ it does not matter, at 1.5 σ it has no name and is measured, with a note."""
    found = initialisation(architecture("initnets:cut"))
    assert [draw.cut for draw in whole(found).values()] == [True, False, False]
    assert found.notes == ("drawn as normal with the mean and deviation measured on a build: 2.weight",)
    # The variance of a standard normal cut off at c is 1 − 2 c φ(c) / erf(c/√2); 64 draws know σ to 6 · 9 %.
    density = math.exp(-(1.5**2) / 2) / math.sqrt(2 * math.pi)
    std = 0.1 * math.sqrt(1 - 2 * 1.5 * density / math.erf(1.5 * ROOT_HALF))
    assert whole(found)["2.weight"].b == pytest.approx(std, rel=6 / math.sqrt(2 * 64))


# The values of a real build.

MODELS = ["torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:regnet_y_400mf", "timm:resnet18",
          "timm:vit_tiny_patch16_224", "timm:convnext_atto", "initnets:gpt2", "initnets:bert", "initnets:llama",
          "initnets:t5", "initnets:clip", "initnets:recurrent", "initnets:encoder", "initnets:computed",
          "builtin:cifar_resnet18"]  # fmt: skip


def moments(draw: Draw) -> tuple[float, float, float]:
    """Mean, standard deviation and fourth central moment."""
    if draw.distribution == "uniform":
        width = draw.b - draw.a
        return (draw.a + draw.b) / 2, width / math.sqrt(12), width**4 / 80
    if not draw.cut:
        return draw.a, draw.b, 3 * draw.b**4
    edge = 2 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(2 * ROOT_HALF)  # c φ(c) / (Φ(c) − ½) / 2 at c = 2
    variance = 1 - 2 * edge
    return draw.a, draw.b * math.sqrt(variance), draw.b**4 * (3 * variance - 2 * edge * 4)


def off(values: torch.Tensor, draw: Draw) -> str:
    """What is wrong with values that should be drawn from ``draw``, to 6 standard errors; "" if nothing."""
    values, n = values.double(), values.numel()
    if draw.distribution == "constant":
        return "" if bool((values == torch.tensor(draw.a).double()).all()) else f"not all {draw.a}"
    mean, std, fourth = moments(draw)
    if abs(float(values.mean()) - mean) > 6 * std / math.sqrt(n):
        return f"mean {float(values.mean())} instead of {mean}"
    if draw.distribution == "uniform" and not draw.a <= float(values.min()) <= float(values.max()) <= draw.b:
        return "beyond its bounds"
    if draw.cut and float((values - mean).abs().max()) > 2.0001 * draw.b:
        return "beyond its cut"
    measured = float((values - mean).square().mean())
    if abs(measured - std**2) > 6 * math.sqrt((fourth - std**4) / n):
        return f"standard deviation {math.sqrt(measured)} instead of {std}"
    return ""


@pytest.mark.parametrize("name", MODELS)
def test_values_of_a_build_agree(name: str) -> None:
    model = architecture(name)
    found = initialisation(model)
    parameters = dict(build(model, seed=3).named_parameters())
    assert found.parts.keys() == parameters.keys()
    wrong = {}
    for key, parts in found.parts.items():
        rows = parameters[key].detach() if parameters[key].dim() else parameters[key].detach()[None]
        assert [part.start for part in parts] + [len(rows)] == [0] + [part.stop for part in parts]
        reasons = [off(rows[part.start : part.stop], part.draw) for part in parts]
        wrong |= {key: reasons} if any(reasons) else {}
    assert not wrong
    assert not found.notes


def test_the_comparison_can_fail() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert not off(values, normal(1.0))
    assert "deviation" in off(values, normal(1.05))
    assert "mean" in off(values, Draw("normal", 0.07, 1.0))
    assert off(values.clamp(-2, 2), Draw("normal", 0.0, 1.0, -2.0, 2.0))
    assert "bounds" in off(values, uniform(math.sqrt(3)))
    assert "not all" in off(values, ZERO)


# Other shapes: the model itself, built at another width, is the answer.

WIDER = [
    ("torchvision:mobilenet_v2", {"width_mult": 2.0}, {}),
    ("torchvision:shufflenet_v2_x1_0", "torchvision:shufflenet_v2_x2_0", {}),
    ("timm:vit_tiny_patch16_224", {"embed_dim": 384}, {}),
    ("timm:vit_tiny_patch16_224", {"embed_dim": 384}, {"weight_init": "jax"}),
    ("timm:convnext_atto", {"dims": (80, 160, 320, 640)}, {}),
    *((f"initnets:{name}", {"d": 96}, {}) for name in
      ("gpt2", "bert", "llama", "t5", "clip", "recurrent", "encoder", "computed", "choosy", "tied")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wider", "common"), WIDER, ids=lambda value: str(value))
def test_new_shapes_are_drawn_as_a_model_built_with_them(name: str, wider: Any, common: dict[str, Any]) -> None:
    larger = architecture(wider) if isinstance(wider, str) else architecture(name, **wider, **common)
    at = build(larger, device="meta")
    found, wanted = initialisation(architecture(name, **common), at), initialisation(larger)
    assert found.parts.keys() == wanted.parts.keys() == dict(at.named_parameters()).keys()
    for key, parts in found.parts.items():
        assert [(p.start, p.stop) for p in parts] == [(p.start, p.stop) for p in wanted.parts[key]], key
        assert all(same(p.draw, q.draw) for p, q in zip(parts, wanted.parts[key], strict=True)), key
    assert not found.notes


def test_a_new_shape_makes_a_difference() -> None:
    """The answers of the test above are not those of the old shapes."""
    names = [name for name, wider, _ in WIDER if isinstance(wider, dict) and "d" in wider]
    differ = set()
    for name in names:
        small, large = (whole(initialisation(architecture(name, d=d))) for d in (48, 96))
        differ |= {name for key in small if not same(small[key], large[key])}
    assert differ == set(names) - {"initnets:gpt2", "initnets:bert", "initnets:llama"}  # theirs is .02 at any width


# Where the operators do not tell.


def test_what_is_not_told_is_measured_and_said() -> None:
    found = initialisation(architecture("initnets:untold"))
    assert found.notes == (
        "drawn as normal with the mean and deviation measured on a build: orthogonal, columns",
        "computed and not drawn, so left as they are: slope, growing, dirac",
    )
    assert found.parts.keys() == {"orthogonal", "columns", "scale"}
    # Rows of an orthogonal matrix have length 1: the mean square of an entry is 1/48, whatever the draw.
    orthogonal = whole(found)["orthogonal"]
    assert orthogonal.a**2 + orthogonal.b**2 == pytest.approx(1 / 48, rel=1e-5)
    assert whole(found)["scale"] == Draw("constant", float(torch.tensor(10.0).log()))


def test_what_is_computed_from_a_size_that_changed_is_measured() -> None:
    model = architecture("initnets:untold")
    found = initialisation(model, build(architecture("initnets:untold", d=96), device="meta"))
    # 0, 1, …, 47 have the mean 23.5 and the variance (48² − 1) / 12.
    growing = whole(found)["growing"]
    assert (growing.a, growing.b) == pytest.approx((23.5, math.sqrt((48**2 - 1) / 12)), rel=1e-12)
    assert "slope" not in found.parts
    assert any("growing" in note and "measured" in note for note in found.notes)


def test_nothing_is_drawn_from_the_global_generator() -> None:
    at = build(architecture("initnets:choosy", d=96), device="meta")
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    initialisation(architecture("initnets:choosy"), at)
    assert torch.equal(torch.rand(4), expected)


def test_segments() -> None:
    runs = Segments(12, ONE)
    runs.change(3, 6, lambda _: ZERO)
    runs.change(5, 9, lambda draw: draw and draw.affine(2.0, 1.0))
    runs.change(9, 12, lambda draw: draw)
    assert list(runs) == [(0, 3, ONE), (3, 5, ZERO), (5, 6, ONE), (6, 9, Draw("constant", 3.0)), (9, 12, ONE)]
    runs.change(0, 12, lambda _: ZERO)
    assert list(runs) == [(0, 12, ZERO)]
    pattern = Segments(4 * MAX_RUNS, ZERO)
    for index in range(0, MAX_RUNS, 2):
        pattern.change(index, index + 1, lambda _: ONE)
    assert len(list(pattern)) == MAX_RUNS
    pattern.change(MAX_RUNS, MAX_RUNS + 1, lambda _: ONE)
    assert list(pattern) == [(0, 4 * MAX_RUNS, None)]


@pytest.mark.parametrize(
    ("draw", "wanted"),
    [
        (uniform(1.0).affine(-2.0, 1.0), Draw("uniform", -1.0, 3.0)),
        (normal(2.0).affine(-3.0, 1.0), Draw("normal", 1.0, 6.0)),
        (normal(2.0).affine(0.0, 1.0), ONE),
        (ONE.clamp(2.0, None), Draw("constant", 2.0)),
        (normal(1.0).clamp(-3.5, 3.5), normal(1.0)),
        (normal(1.0).clamp(-2.5, None), None),
        (uniform(1.0).clamp(-1.0, 1.0), uniform(1.0)),
        (uniform(1.0).clamp(0.0, None), None),
        (uniform(2.0).erfinv(), None),
        # All of (−1, 1): a normal distribution of variance ½, not cut off at all.
        (uniform(1.0).erfinv(), normal(ROOT_HALF)),
    ],
)
def test_arithmetic(draw: Draw | None, wanted: Draw | None) -> None:
    assert draw == wanted
