"""docs/architectures.md: some of its lines made again, and all of it against published and hand-derived numbers."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import programs
import pytest

from sift_cli.core.plan import ResizeAxis

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architectures.md").read_text()
KINDS = ("wide", "parallel", "factorized", "doped", "lowrank")
SPARSITIES = (".5", ".75", ".9")

needs = {
    source: pytest.mark.skipif(importlib.util.find_spec(source) is None, reason=f"needs {source}")
    for source in ("torchvision", "timm", "transformers")
}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with programs.script(ROOT / "benchmarks" / "architectures.py") as module:
        yield module


def table(name: str) -> list[str]:
    """The lines of a table of the page."""
    found = re.search(rf"<!-- table {re.escape(name)} -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert found is not None, name
    return found[1].splitlines()


def rows(name: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table(name) if line.startswith("| ")][1:]


def plans(name: str) -> dict[tuple[str, str], list[str]]:
    """Cells of a model's table after kind and sparsity, by them; lines with other options left out."""
    found = {(kind, s): cells for kind, s, *cells in rows(name) if " " not in kind}
    assert list(found) == [(kind, s) for kind in KINDS for s in SPARSITIES]
    return found


def number(text: str) -> int:
    return int(text.replace(",", ""))


# The page is what the script prints.

FAST = [
    *(pytest.param("cifar_resnet18", kind, s, {}, id=f"cifar-{kind}-{s}") for kind in KINDS for s in SPARSITIES),
    pytest.param("resnet18", "wide", ".9", {}, marks=needs["torchvision"]),
    pytest.param("resnet18", "lowrank", ".5", {}, marks=needs["torchvision"]),
    pytest.param("mobilenet_v2", "factorized", ".75", {}, marks=needs["torchvision"]),
    pytest.param("botnet26t", "doped", ".5", {}, marks=needs["timm"]),
    pytest.param("bert-small", "parallel", ".75", {}, marks=needs["transformers"]),
    pytest.param("bert-small", "wide", ".9", {"match": "model"}, marks=needs["transformers"]),
]


@pytest.mark.parametrize(("model", "kind", "sparsity", "options"), FAST)
def test_a_line_made_again(model: str, kind: str, sparsity: str, options: dict[str, str], script: ModuleType) -> None:
    assert script.line(model, kind, sparsity, **options) in table(model)


def test_the_table_of_the_official_counts_made_again(script: ModuleType) -> None:
    assert list(script.released_table()) == table("released")


def test_every_table_of_the_script_is_in_the_page(script: ModuleType) -> None:
    assert sorted(re.findall(r"<!-- table (\S+) -->", PAGE)) == sorted(script.TABLES)
    for name, model in script.MODELS.items():
        assert model.source in table(name)[2]


# What the specification, or a closed form, says of it.

#: MACs of the dense model.
MACS = {
    "resnet18": 1_814_073_344, "resnet34": 3_663_761_408, "cifar_resnet18": 555_468_800, "mobilenet_v2": 300_774_272,
}  # fmt: skip
SOLVED = {
    "resnet18": (".50868", ".76748", ".91475"),
    "resnet34": (".50119", ".75836", ".90685"),
    "cifar_resnet18": (".49500", ".75082", ".90033"),
}
WIDTHS = {s: ", ".join(str(w * base) for base in (1, 2, 4, 8)) for s, w in zip(SPARSITIES, (90, 128, 202), strict=True)}


@pytest.mark.parametrize("name", MACS)
def test_dense_macs(name: str) -> None:
    assert f" {MACS[name]:,} MACs." in table(name)[2]


@pytest.mark.parametrize("name", SOLVED)
def test_the_papers_resnets(name: str) -> None:
    found = plans(name)
    for s, solved in zip(SPARSITIES, SOLVED[name], strict=True):
        widths, sparsity, *_, macs, more = found["wide", s]
        assert (widths, sparsity, more) == (WIDTHS[s], solved, "")
        assert 0 <= MACS[name] - number(macs) < 49


@pytest.mark.parametrize("name", re.findall(r"<!-- table (\S+) -->\n## ", PAGE))
def test_layers_in_place_cost_what_they_did(name: str) -> None:
    """To the last multiply-add, as rounding goes to a sparse part."""
    before = re.search(r"([\d,]+) MACs\.", table(name)[2])
    assert before is not None
    for (kind, _), cells in plans(name).items():
        if kind in ("parallel", "factorized", "doped"):
            assert cells[-2:] == [before[1], ""]


def cifar_parameters(width: int, blocks: tuple[int, ...]) -> int:
    """Parameters of a ResNet for CIFAR-100 of four stages: convolutions, norms, head."""
    total, inputs = 3 * 9 * width + 2 * width, width
    for stage, depth in enumerate(blocks):
        outputs = width << stage
        for block in range(depth):
            total += 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs
            if block == 0 and stage:
                total += inputs * outputs + 2 * outputs
            inputs = outputs
    return total + inputs * 100 + 100


def test_parameters_of_resnets() -> None:
    """Wide: those of a wider ResNet. Parallel: k times the replaced weights, and k norms more after each."""
    for name, blocks in (("cifar_resnet18", (2, 2, 2, 2)), ("cifar_resnet34", (3, 4, 6, 3))):
        found, dense = plans(name), cifar_parameters(64, blocks)
        norms = sum(2 * depth * (64 << stage) for stage, depth in enumerate(blocks))
        shortcuts = sum((64 << stage - 1) * (64 << stage) for stage in (1, 2, 3))
        outside = 3 * 9 * 64 + 512 * 100 + 100 + 2 * (64 + norms + sum(64 << stage for stage in (1, 2, 3)))
        replaced = dense - outside - shortcuts
        for s, width, k in zip(SPARSITIES, (90, 128, 202), (2, 4, 10), strict=True):
            assert number(found["wide", s][2]) == cifar_parameters(width, blocks)
            assert number(found["parallel", s][2]) == dense + (k - 1) * replaced + 2 * k * norms
            assert number(found["parallel", s][3]) == dense + 2 * k * norms
            assert number(found["doped", s][3]) == dense + 2 * norms


def test_ranks() -> None:
    """Of layers of 64 and of 512 channels, the smallest and the largest: by the paper's formulas, and of doped layers
    as the official code has them."""
    found = plans("cifar_resnet18")
    for s, doped in zip(SPARSITIES, (28, 43, 51), strict=True):
        sparsity = float(s)
        ranks = [9 * c * c / (10 * c) for c in (64, 512)]
        up, down = (math.ceil(round(r / (1 - sparsity), 6)) for r in ranks), [math.floor(r * sparsity) for r in ranks]
        assert down[0] == doped
        assert found["factorized", s][0] == "rank {} … {}".format(*up)
        assert found["doped", s][0] == "rank {} … {}".format(*down)


def test_the_official_counts() -> None:
    assert rows("released") == [
        ["parallel", ".994", ".992", ".990"],
        ["factorized", ".997", ".993", ".991"],
        ["doped", ".745", ".437", ".191"],
    ]


#: Expansion, width, blocks and first stride of each stage of MobileNetV2.
MOBILENET = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet(factor: float) -> tuple[int, int, list[tuple[int, int]]]:
    """MobileNetV2 at ``width_mult=factor`` and 224²: MACs of stem and head, MACs of pointwise layers, and weights and
    positions of each depthwise layer."""

    def width(channels: int) -> int:
        return 8 * round(channels * factor / 8)

    size, inputs, pointwise, depthwise = 112, width(32), 0, []
    outside = 27 * inputs * size**2
    for expansion, channels, blocks, stride in MOBILENET:
        for block in range(blocks):
            hidden, outputs = expansion * inputs, width(channels)
            pointwise += (inputs * hidden if expansion > 1 else 0) * size**2
            size //= stride if block == 0 else 1
            depthwise.append((9 * hidden, size**2))
            pointwise += hidden * outputs * size**2
            inputs = outputs
    return outside + 1000 * width(1280), pointwise + inputs * width(1280) * size**2, depthwise


#: The specification's four digits for depthwise layers that are dense, sparse at 1 − 1/k, and as sparse as the others.
DEPTHWISE = {
    "dense": (".5279", ".7806", ".9249"),
    "1 − 1/k, their own": (".5117", ".7613", ".9080"),
    "that of all others": (".5003", ".7516", ".9026"),
}


def test_depthwise_layers() -> None:
    """The closed form has the specification's digits; with depthwise layers of whole weights, all of the page's."""
    found = {words: cells for words, *cells in rows("mobilenet_v2-depthwise")}
    assert found.keys() == DEPTHWISE.keys()
    for words, published in DEPTHWISE.items():
        for s, digits, cell in zip(SPARSITIES, published, found[words], strict=True):
            factor = 1 / math.sqrt(1 - float(s))
            outside, pointwise, depthwise = mobilenet(factor)
            budget, all_of_them = MACS["mobilenet_v2"] - outside, sum(n * positions for n, positions in depthwise)
            shares = {"dense": 0.0, "1 − 1/k, their own": 1 - 1 / factor}
            share = shares.get(words, 1 - budget / (pointwise + all_of_them))
            exact = 1 - (budget - (1 - share) * all_of_them) / pointwise
            whole = sum(math.floor((1 - round(share, 6)) * n) * positions for n, positions in depthwise)
            assert f"{exact:.4f}" == f"0{digits}"
            assert f"{1 - (budget - whole) / pointwise:.5f}" == f"0{cell}"


@needs["torchvision"]
def test_the_command_of_the_depthwise_table(script: ModuleType) -> None:
    """At 50 %: the widths are those of torchvision's ``width_mult``, and the options are those that the page shows."""
    import torch

    from sift_cli.compat import import_torchvision

    options: dict[str, Any] = dict(script.mobilenet_options("own", ".5"))
    for flag, name in (("--layer-width", "layer_width"), ("--layer-sparsity", "layer_sparsity")):
        given = re.findall(rf"{flag} '(\S+)'", PAGE[: PAGE.find("<!-- table mobilenet_v2-depthwise")])
        assert list(options[name]) == given
    plan = script.planned("mobilenet_v2", "wide", ".5", **options)
    assert script.digits(script.sparsity_of_macs(plan)) in table("mobilenet_v2-depthwise")[3]
    with torch.device("meta"):
        wanted = import_torchvision().models.mobilenet_v2(width_mult=math.sqrt(2)).state_dict()
    shapes = {name: list(tensor.shape) for name, tensor in script.loaded("mobilenet_v2").module.state_dict().items()}
    for edit in plan.edits:
        if isinstance(edit, ResizeAxis):
            shapes[edit.tensor][edit.axis] = edit.new
    assert shapes == {name: list(tensor.shape) for name, tensor in wanted.items()}


#: FLOPs of a training step on one sequence by the paper's formula.
GPT = {
    ("GPT-3 Small", "dense", ""): 876_303_876_096,
    ("GPT-3 Small", "the paper's", ".5"): 1_029_007_761_408,
    ("GPT-3 Medium", "dense", ""): 2_484_477_100_032,
}


def gpt_flops(layers: int, old: int, new: int, heads: int) -> int:
    """The formula where the linear layers of the blocks keep the 12 d² weights of the dense model: 4 d² + 8 d²."""
    s, v = 1024, 50257
    return 3 * (layers * (2 * s * 12 * old**2 + 4 * s * s * new + 3 * heads * s * s) + 2 * s * v * new)


def test_training_flops_of_gpt() -> None:
    found = {(title, kind, s): cells for title, kind, s, *cells in rows("gpt-flops")}
    assert {key: number(found[key][2]) for key in GPT} == GPT
    assert found["GPT-3 Small", "the paper's", ".5"][3:] == ["+17.43 %", "65.5 %", "32.0 %", "2.4 %"]
    # At the paper's widths every linear layer keeps its weights at .50356, and 75 % is the formula's 1.2294E12.
    assert found["GPT-3 Small", "wide, at the paper's ff", ".5"][:2] == ["1092, 4344", ".50356"]
    assert found["GPT-3 Small", "wide", ".5"][0] == "1092, 4368"
    assert found["GPT-3 Small", "wide", ".75"][:2] == ["1536, 6144", ".75000"]
    assert f"{number(found['GPT-3 Small', 'wide', '.75'][2]):.4E}" == "1.2294E+12"
    for title, layers, d, heads in (("Small", 12, 768, 12), ("Medium", 24, 1024, 16), ("1.3B", 24, 2048, 16)):
        for s in SPARSITIES:
            widths, _, flops, _, *split = found[f"GPT-3 {title}", "wide", s]
            new = int(widths.partition(",")[0])
            assert number(flops) == gpt_flops(layers, d, new, heads)
            assert split[2] == "0.0 %"


def test_gpt_for_the_macs_of_the_dense_model() -> None:
    """What logits and attention leave of the dense model's MACs is what the linear layers keep."""
    found = {s: cells for kind, s, *cells in rows("gpt3-small") if kind == "wide `--match model`"}
    s, v, layers = 1024, 50257, 12

    def macs(d: int, linear: float) -> float:
        return s * linear + layers * 2 * s * s * d + s * v * d

    for sparsity, d in ((".5", 1092), (".75", 1536)):
        kept = (macs(768, layers * 12 * 768**2) - macs(d, 0)) / s
        assert f"{1 - kept / (layers * 12 * d * d):.5f}" == f"0{found[sparsity][1]}"
    assert f"{float(found['.75'][1]):.4f}" == "0.9192"  # the specification's
    assert found[".9"][0].startswith("refused: wide is not feasible on the model")


def test_gpt_at_the_papers_widths_costs_what_the_page_says() -> None:
    assert f"{gpt_flops(12, 768, 1092, 12):.3E}" == "1.025E+12"
    assert "so that at the same widths the FLOPs are 1.025E12" in PAGE


#: Layers, width, heads, published number of parameters.
TRANSFORMERS = [
    ("gpt3-small", 12, 768, "125M"), ("gpt3-medium", 24, 1024, "356M"), ("gpt3-1.3b", 24, 2048, "1316M"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layers", "d", "published"), TRANSFORMERS)
def test_parameters_of_gpt(name: str, layers: int, d: int, published: str) -> None:
    """Embeddings of 50257 tokens and 2048 positions; in a block 12 d² weights, 9 d biases and two norms; a norm."""

    def parameters(d: int, inner: int) -> int:
        block = 4 * d * d + 4 * d + 2 * d * inner + inner + d + 4 * d
        return (50257 + 2048) * d + layers * block + 2 * d

    dense = parameters(d, 4 * d)
    assert f"{dense / 1e6:.0f}M" == published
    assert f" {dense:,} parameters," in table(name)[2]
    for s in SPARSITIES:
        widths, _, total, kept, *_ = plans(name)["wide", s]
        new, inner = (int(text.split()[1]) for text in widths.split(", "))
        assert number(total) == parameters(new, inner)
        assert number(kept) == parameters(new, inner) - layers * (4 * new**2 + 2 * new * inner - 12 * d * d)


def test_parameters_of_bert_small() -> None:
    """The paper's 29.1 M with a pooler and a next-sentence head, which the page leaves out."""
    d, inner = 512, 2048
    block = 4 * (d * d + d) + 2 * d * inner + inner + d + 4 * d
    masked = (30522 + 512 + 2) * d + 2 * d + 4 * block + d * d + d + 2 * d + 30522
    assert f" {masked:,} parameters," in table("bert-small")[2]
    assert f"{(masked + d * d + d + 2 * d + 2) / 1e6:.1f}" == "29.1"
