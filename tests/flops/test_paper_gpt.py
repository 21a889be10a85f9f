"""The paper's formula for GPT: its printed numbers, and models that it is read from."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import initnets
import pytest
import torch
from typer.testing import Result

from sift_cli import surgery
from sift_cli.core.plan import Architecture, InputSpec
from sift_cli.errors import ModelError
from sift_cli.flops import count_module
from sift_cli.flops.paper_gpt import GptCount, block_weights, count_gpt, count_paper_gpt, overhead, overhead_note
from sift_cli.models import LoadedModel
from sift_cli.transforms import TransformOptions, decide

SEQUENCES = 2_283_520  # 4460 steps of 512

#: L, d, ff, h, sparsity → FLOPs a sequence by the specification, and as printed in the paper, and total as printed.
ORACLES = [
    (12, 768, 3072, 12, "0", 876_303_876_096, "8.763E11", "2.0011E18"),
    (12, 1092, 4344, 12, "1/2", 1_029_007_761_408, "1.029E12", "2.3498E18"),
    (24, 1024, 4096, 16, "0", 2_484_477_100_032, "2.4845E12", "5.6734E18"),
]


def count(layers: int, width: int, inner: int, heads: int, sparsity: str) -> GptCount:
    linear = layers * block_weights(width, inner) * (1 - Fraction(sparsity))
    return count_gpt(int(linear), layers=layers, width=width, heads=heads, vocabulary=50257, length=1024)


def printed(value: int, like: str) -> str:
    """Rounded to the digits that ``like`` has."""
    digits = len(like.split("E")[0]) - 2
    return f"{value:.{digits}E}".replace("+", "")


@pytest.mark.parametrize(("layers", "width", "inner", "heads", "sparsity", "exact", "paper", "total"), ORACLES)
def test_the_papers_table(
    layers: int, width: int, inner: int, heads: int, sparsity: str, exact: int, paper: str, total: str
) -> None:
    found = count(layers, width, inner, heads, sparsity).total
    assert found == exact
    assert printed(found, paper) == paper
    assert printed(found * SEQUENCES, total) == total


def test_overhead_by_cause() -> None:
    before, after = count(*ORACLES[0][:5]), count(*ORACLES[1][:5])
    shares = overhead(before, after)
    assert {cause: f"{float(share):.1%}" for cause, share in shares.items()} == {
        "vocabulary": "65.5%", "attention": "32.0%", "rounding": "2.4%",
    }  # fmt: skip
    assert sum(shares.values()) == 1
    assert overhead_note(before, after) == (
        "a training step costs +17.43% FLOPs by the paper's formula for GPT: "
        "vocabulary 65.5%, attention 32.0%, rounding 2.4%"
    )
    assert overhead(before, before) == {}
    assert overhead_note(before, before) is None


needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")


@needs_transformers
@pytest.mark.parametrize("width", [48, 96])
def test_a_gpt2_that_is_read(width: int) -> None:
    model = initnets.gpt2(width).eval()
    tokens = torch.zeros(1, 20, dtype=torch.int64)
    kept = {name: 7 for name, tensor in model.named_parameters() if tensor.dim() == 2 and ".h." in name}
    for nonzero, linear in (({}, 3 * block_weights(width, 4 * width)), (kept, 3 * 4 * 7)):
        report = count_module(model, (tokens,), counter="dispatch", nonzero=nonzero)
        formula = count_gpt(linear, layers=3, width=width, heads=4, vocabulary=50, length=20)
        found = count_paper_gpt(model, report)
        assert (found.total, found.convention, found.layers) == (formula.total, "paper-gpt", report.layers)


@needs_transformers
def test_a_wide_gpt2_is_read_from_what_is_counted() -> None:
    """Half of the weights of four thirds of the width: the plan's kept weights, attention and logits at the width that
    was solved for."""
    tokens, specs = torch.zeros(1, 20, dtype=torch.int64), (InputSpec((1, 20), "int64", high=50),)
    model = LoadedModel(initnets.gpt2().eval(), (tokens,), Architecture("factory", "initnets:gpt2"), {}, specs)
    plan = decide("wide", model, TransformOptions(Fraction(3, 4)))
    made = surgery.transform(model, plan)
    report = count_module(made.module, model.inputs, counter="dispatch", nonzero=made.nonzero)
    width = made.module.get_parameter("transformer.ln_f.weight").numel()
    assert width == 96
    kept = sum(layer.nonzero_after for layer in plan.layers if ".h." in layer.name)
    formula = count_gpt(kept, layers=3, width=width, heads=4, vocabulary=50, length=20)
    assert count_paper_gpt(made.module, report).total == formula.total


@needs_transformers
def test_the_command(sift: Callable[..., Result], tmp_path: Path) -> None:
    initnets.gpt2().config.save_pretrained(tmp_path / "gpt2")
    source = f"transformers:{tmp_path}/gpt2"
    done = sift("flops", source, "--input", "1x20", "--count", "paper-gpt", "--sequences", 1000, "--json")
    formula = count_gpt(3 * block_weights(48, 192), layers=3, width=48, heads=4, vocabulary=50, length=20)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["convention"], document["total"]) == ("paper-gpt", formula.total)
    assert document["total_of_sequences"] == 1000 * formula.total
    assert sift("flops", "nets:tiny_resnet", "--input", "1x3x8x8", "--count", "paper-gpt").exit_code == 4


@needs_transformers
def test_other_models_are_refused_in_one_sentence() -> None:
    tokens = torch.zeros(1, 20, dtype=torch.int64)
    for model, name in ((initnets.bert().eval(), "BertForMaskedLM"), (initnets.clip().eval(), "CLIPTextModel")):
        report = count_module(model, (tokens,), counter="dispatch", nonzero={})
        with pytest.raises(ModelError, match=f"causal language models of transformers, not for {name}$"):
            count_paper_gpt(model, report)
