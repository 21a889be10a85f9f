"""sift export --dtype: what it prints, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from graphs import graph, sparse
from typer.testing import Result

Sift = Callable[..., Result]
TEXT = "(float[batch, 64] x) => (float[batch, 96] y) { h = MatMul (x, w) y = MatMul (h, v) }"


@pytest.fixture
def source(sift: Sift) -> None:
    onnx.save(graph(TEXT, {"w": sparse(64, 128, zeros=0.8), "v": sparse(128, 96, zeros=0)}), "pruned.onnx")


def test_the_error_is_printed(sift: Sift, source: None) -> None:
    export = ("export", "pruned.onnx", "--min-sparsity", "0.5")
    assert sift(*export, "-o", "exact.onnx").exit_code == 0
    done = sift(*export, "-o", "half.onnx", "--dtype", "fp16")
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(" rounding"))
    assert "what fp16 changes, as a part of the largest number of each output" in line
    document = json.loads(sift(*export, "-o", "half.onnx", "--dtype", "fp16", "--force", "--json").stdout)
    (claim,) = (claim for claim in document["certificate"]["claims"] if claim["name"] == "rounding")
    assert 1e-5 < claim["after"] < 1e-3  # 2^-12 of each weight, and their signs mix
    assert f"{claim['after']:.3g}" in line
    assert 0.5 < document["bytes"] / Path("exact.onnx").stat().st_size < 0.6


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (("--dtype", "fp8"), "'fp8' is not one of 'fp32', 'fp16', 'bf16'", 2),
        (("--dtype", "fp16", "--format", "folder"), "--dtype is for a file", 7),
    ],
)
def test_a_refusal(sift: Sift, source: None, arguments: tuple[str, ...], sentence: str, code: int) -> None:
    done = sift("export", "pruned.onnx", "-o", "half", *arguments)
    assert done.exit_code == code
    assert sentence in done.stderr


def test_a_weight_out_of_range_says_what_to_type(sift: Sift, source: None) -> None:
    weight = sparse(64, 128, zeros=0.8)
    weight[0, 0] = -70000
    onnx.save(graph(TEXT, {"w": weight, "v": sparse(128, 96, zeros=0)}), "large.onnx")
    export = ("export", "large.onnx", "-o", "half.onnx", "--min-sparsity", "0.5")
    done = sift(*export, "--dtype", "fp16")
    assert done.exit_code == 7
    error, hint = done.stderr.splitlines()
    assert error == "error: 'w.values' has a weight of -70000, and fp16 ends at 65504"
    assert hint.endswith("--dtype bf16")
    assert not Path("half.onnx").exists()
    assert sift(*export, "--dtype", "bf16").exit_code == 0
