"""The main job with every transform that replaces layers: transform, load, flops, export, run, densify."""

from __future__ import annotations

import json
from collections.abc import Callable

import nets
import numpy as np
import pytest
import torch
from typer.testing import Result

import sift_cli
from sift_cli import runtime

Sift = Callable[..., Result]
ARCH = ("--arch", "nets:tiny_resnet")
MACS = sum(nets.TinyResNet.MACS.values())
#: Transform → sparse operators in its graph, at sparsity 3/4: four layers of four branches, of two factors, of one θ.
OPERATORS = {"parallel": 16, "factorized": 8, "doped": 4, "lowrank": 0}


@pytest.mark.parametrize("kind", OPERATORS)
def test_from_an_architecture_to_a_run(kind: str, sift: Sift) -> None:
    done = sift(
        "transform",
        "nets:tiny_resnet",
        "--input",
        "1x3x8x8",
        "--kind",
        kind,
        "--sparsity",
        ".75",
        "-o",
        "x.safetensors",
    )
    assert done.exit_code == 0, done.output
    assert "iso_flop" in done.stdout
    done = sift("flops", "x.safetensors", *ARCH, "--json")
    counted = json.loads(done.stdout)["macs"]["sparse"]
    assert counted == MACS if kind != "lowrank" else MACS - 64 * (9 * 32 + 32) < counted <= MACS
    done = sift("export", "x.safetensors", *ARCH, "--format", "onnx", "-o", "x.onnx", "--min-sparsity", "0")
    assert done.exit_code == 0, done.output
    assert json.loads(sift("flops", "x.onnx", "--json").stdout)["macs"]["sparse"] == counted

    model = sift_cli.load("x.safetensors", arch="nets:tiny_resnet")
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    np.save("x.npy", x.numpy())
    done = sift("run", "x.onnx", "--input", "x.npy", "-o", "y.npy", "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["kernels"]) == OPERATORS[kind]
    with torch.no_grad():
        np.testing.assert_allclose(np.load("y.npy"), model(x).numpy(), rtol=1e-4, atol=1e-5)
    (name,) = [item.name for item in runtime.session("x.onnx", library=False).get_inputs()]
    plain = runtime.session("x.onnx", library=False).run(None, {name: x.numpy()})[0]
    np.testing.assert_allclose(plain, np.load("y.npy"), rtol=1e-4, atol=1e-5)

    done = sift("densify", "x.safetensors", *ARCH, "-o", "d.safetensors")
    assert done.exit_code == 0, done.output
    dense = sift_cli.load("d.safetensors", arch="nets:tiny_resnet")
    assert not sift_cli.masks(dense)
    assert all(torch.equal(a, b) for a, b in zip(dense.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["doped", "lowrank"])
def test_a_plan_that_was_printed_is_carried_out(kind: str, sift: Sift) -> None:
    options = ("nets:tiny_resnet", "--input", "1x3x8x8", "--kind", kind, "--sparsity", "3/4")
    with open("plan.json", "w") as file:
        file.write(sift("transform", *options, "--dry-run", "--json").stdout)
    for output, asked in (
        ("a.safetensors", options),
        ("b.safetensors", ("nets:tiny_resnet", "--input", "1x3x8x8", "--plan", "plan.json")),
    ):
        done = sift("transform", *asked, "-o", output)
        assert done.exit_code == 0, done.output
    a, b = (sift_cli.load(path, arch="nets:tiny_resnet").state_dict() for path in ("a.safetensors", "b.safetensors"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_options_reach_the_plan(sift: Sift) -> None:
    def plan(*options: str) -> dict:
        done = sift("transform", "nets:tiny_resnet", "--input", "1x3x8x8", *options, "--dry-run", "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    snapped = plan("--kind", "parallel", "--sparsity", ".7", "--snap", "--nonlinearity", "act")
    assert snapped["sparsity"] == "2/3"
    replaced = [edit["arguments"] for edit in snapped["edits"] if edit["edit"] == "replace_layer"]
    assert replaced == [{"branches": 3, "norm": 0, "activation": "relu"}] * 4
    assert plan("--kind", "lowrank", "--sparsity", "0", "--width", "3/2")["options"]["width"] == "3/2"
    assert plan("--kind", "doped", "--sparsity", ".5", "--compat", "released")["options"]["compat"] == "released"


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--kind", "parallel", "--sparsity", ".7"), 5, "no whole number of parallel branches at sparsity 7/10"),
        (("--kind", "doped", "--sparsity", ".5", "--snap"), 5, "the transform doped has no option snap"),
        (("--kind", "lowrank", "--sparsity", ".5", "--width", "0"), 5, "width 0 is outside 1 … 64"),
        (("--kind", "lowrank", "--sparsity", ".5", "--width", "x"), 2, "'x' is no number"),
        (("--plan", "plan.json", "--compat", "released"), 2, "a plan is complete"),
    ],
)
def test_refusals(options: tuple[str, ...], code: int, sentence: str, sift: Sift) -> None:
    done = sift("transform", "nets:tiny_resnet", "--input", "1x3x8x8", *options)
    assert done.exit_code == code
    assert sentence in done.stderr
