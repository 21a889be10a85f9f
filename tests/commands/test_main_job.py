"""The main job as a person does it, on a small net of their own: transform, inspect, export, flops, run, densify."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
import torch
from typer.testing import Result

import sift_cli
from sift_cli import runtime

Sift = Callable[..., Result]
ARCH = ("--arch", "nets:tiny_resnet")
INPUT = ("--input", "1x3x8x8")
MACS = sum(nets.TinyResNet.MACS.values())
#: In the second block the convolution of the shortcut comes last, and adds.
SPARSE_OPS = ["SparseConvRelu", "SparseConvAddRelu", "SparseConvRelu", "SparseConv", "SparseConvAddRelu"]


@pytest.fixture
def checkpoint(made: Path, tmp_path: Path) -> Path:
    return shutil.copy(made / "tiny.pt", tmp_path / "tiny.pt")


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    return shutil.copy(made / "w.safetensors", tmp_path / "w.safetensors")


@pytest.fixture
def graph(made: Path, tmp_path: Path) -> Path:
    return shutil.copy(made / "w.onnx", tmp_path / "w.onnx")


def test_transform_prints_its_certificate(sift: Sift, checkpoint: Path) -> None:
    done = sift(
        "transform", checkpoint, *ARCH, *INPUT, "--kind", "wide", "--sparsity", "0.75", "--init",
        "preserve", "--json", "-o", "w.safetensors",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    claims = document["certificate"]["claims"]
    assert {claim["name"] for claim in claims} == {
        "iso_flop", "io_shapes", "mask_cardinality", "roundtrip", "same_function", "search_space",
    }  # fmt: skip
    assert all(set(c) == {"name", "verdict", "before", "after", "bound", "counter"} for c in claims)
    assert {claim["verdict"] for claim in claims} == {"held"}
    iso = {claim["counter"]: claim for claim in claims if claim["name"] == "iso_flop"}
    assert set(iso) == {"plan", "fvcore", "dispatch", "onnx"}
    assert {(claim["before"], claim["after"]) for claim in iso.values()} == {(MACS, MACS)}
    assert document["bytes"] == Path("w.safetensors").stat().st_size


def test_the_artifact_says_what_it_is(sift: Sift, artifact: Path) -> None:
    report = json.loads(sift("inspect", artifact, "--json").stdout)
    assert report["schema"] == "sift.inspect/1"
    assert report["plan"]["kind"] == "wide"
    assert report["certificate"]["schema"] == "sift.certificate/1"
    assert report["masks"]["count"] == 5
    text = sift("inspect", artifact).stdout
    assert "wide at sparsity 3/4" in text
    assert "iso_flop" in text


def test_load_gives_back_the_module_with_its_masks(artifact: Path) -> None:
    model = sift_cli.load(artifact, arch="nets:tiny_resnet")
    masks = sift_cli.masks(model)
    assert set(masks) == {f"{name}.weight" for name in nets.TinyResNet.MACS} - {"conv1.weight", "fc.weight"}
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert mask.dtype is torch.bool
        assert not weight[~mask].any()
    # Ready to train: a step moves masked weights too, and apply_masks takes that back.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    name, mask = next(iter(masks.items()))
    sift_cli.apply_masks(model)
    assert not model.get_parameter(name)[~mask].any()
    assert model.state_dict().keys() == nets.TinyResNet().state_dict().keys()


def test_flops_agree_to_the_integer_on_the_artifact_and_on_the_graph(sift: Sift, artifact: Path, graph: Path) -> None:
    for arguments in ((artifact, *ARCH), (graph,)):
        document = json.loads(sift("flops", *arguments, "--json").stdout)
        assert document["schema"] == "sift.flops/1"
        assert document["macs"]["sparse"] == MACS
        assert document["flops"] == {key: 2 * value for key, value in document["macs"].items()}
        # k = 2: stem and head double, the other layers have four times the weights.
        ends = nets.TinyResNet.MACS["conv1"] + nets.TinyResNet.MACS["fc"]
        assert document["macs"]["dense"] == 2 * ends + 4 * (MACS - ends)


def test_onnxruntime_computes_what_torch_does(artifact: Path) -> None:
    model = sift_cli.load(artifact, arch="nets:tiny_resnet")
    with torch.no_grad():
        for child in model.modules():  # zero-init residual hides the branches; show them
            if isinstance(child, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(child.weight, 0.5, 1.5)
    from sift_cli.core.masks import Mask
    from sift_cli.export.layer_plans import by_estimate
    from sift_cli.export.onnx import to_onnx

    masks = {name: Mask.from_bool(mask.numpy()) for name, mask in sift_cli.masks(model).items()}
    proto = to_onnx(model, (torch.randn(1, 3, 8, 8),), masks, {}, decide=by_estimate(0, {}))
    for library in (False, True):
        session = runtime.session(proto.SerializeToString(), library=library)
        for batch in (1, 5):
            x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
            (got,) = session.run(None, {"input": x.numpy()})
            with torch.no_grad():
                wanted = model.eval()(x).numpy()
            assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
        assert len(runtime.kernels(session)) == (len(masks) if library else 0)


def test_training_costs_of_an_artifact(sift: Sift, artifact: Path, graph: Path) -> None:
    counted = json.loads(sift("flops", artifact, *ARCH, "--json").stdout)["flops"]
    for source in ((artifact, *ARCH), (graph,)):
        report = json.loads(sift("flops", *source, "--training", "--interval", "9", "--window", "0.5", "--json").stdout)
        assert report["dense_baseline"] == 3 * 2 * MACS  # of the model before the transform
        methods = {entry["method"]: entry for entry in report["methods"]}
        assert methods["static"]["step_after"] == methods["set"]["step_average"] == 3 * counted["sparse"]
        rigl = (9 * 3 * counted["sparse"] + 2 * counted["sparse"] + counted["dense"]) / 10
        assert methods["rigl"]["step_while_updating"] == pytest.approx(rigl, rel=1e-12)
        average = (rigl + 3 * counted["sparse"]) / 2
        assert methods["rigl"]["training_relative_to_dense"] == pytest.approx(average / (3 * 2 * MACS), rel=1e-12)
    table = sift("flops", artifact, *ARCH, "--training").stdout
    assert f"{3 * 2 * MACS:,}" in table
    assert "rigl" in table
    assert sift("flops", artifact, *ARCH, "--training", "--input", "1x3x16x16").exit_code == 4
    assert sift("flops", artifact, "--training", "--count", "official").exit_code == 2
    assert sift("flops", artifact, "--sequences", "5").exit_code == 2


def test_the_graph_is_standard_but_for_sifts_operators(graph: Path) -> None:
    model = onnx.load(graph)
    onnx.checker.check_model(model, full_check=True)
    ops = [(node.domain, node.op_type) for node in model.graph.node]
    assert [name for domain, name in ops if domain == "sift"] == SPARSE_OPS
    assert {(f.domain, f.name) for f in model.functions} == {("sift", name) for name in SPARSE_OPS}
    assert ops.count(("", "Relu")) == 1  # the stem's
    assert ops.count(("", "Add")) == 0
    assert ops.count(("", "Conv")) == 1  # the stem
    assert ops.count(("", "BatchNormalization")) == 0  # folded
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(
        "/" in prop.value for node in model.graph.node for prop in node.metadata_props
    )  # no paths of this machine
    assert {prop.key for prop in model.metadata_props} >= {"sift.plan", "sift.certificate"}


def test_run(sift: Sift, graph: Path, tmp_path: Path) -> None:
    np.save("x.npy", np.ones((3, 3, 8, 8), np.float32))
    done = sift("run", graph, "--input", "x.npy", "-o", "y.npy")
    assert done.exit_code == 0, done.output
    assert "SparseConv" in done.stdout
    assert np.load("y.npy").shape == (3, 10)
    document = json.loads(sift("run", graph, "--batch", 5, "--json").stdout)
    assert document["outputs"] == [{"name": "output", "shape": [5, 10], "dtype": "float32"}]
    assert [kernel["op"] for kernel in document["kernels"]] == SPARSE_OPS
    assert json.loads(sift("run", graph, "--no-library", "--json").stdout)["kernels"] == []


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_densify_changes_no_bit(sift: Sift, artifact: Path, suffix: str) -> None:
    done = sift("densify", artifact, *ARCH, "-o", f"dense.{suffix}", "--json")
    assert done.exit_code == 0, done.output
    claims = {claim["name"]: claim for claim in json.loads(done.stdout)["certificate"]["claims"]}
    assert {claims[name]["verdict"] for name in claims} == {"held"}
    assert "roundtrip" in claims
    sparse = sift_cli.load(artifact, arch="nets:tiny_resnet")
    if suffix == "pt":
        state = torch.load("dense.pt", weights_only=True)
    else:
        from safetensors.torch import load_file

        state = load_file("dense.safetensors")
        dense = sift_cli.load("dense.safetensors", arch="nets:tiny_resnet")
        assert sift_cli.masks(dense) == {}
        report = json.loads(sift("inspect", "dense.safetensors", "--json").stdout)
        assert report["plan"]["kind"] == "wide"
        assert report["masks"]["count"] == 0
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = sparse(x)
        sparse.load_state_dict(state, strict=True)
        assert torch.equal(before, sparse(x))


def test_export_to_safetensors_keeps_everything(sift: Sift, artifact: Path) -> None:
    done = sift("export", artifact, *ARCH, "-o", "copy.safetensors")
    assert done.exit_code == 0, done.output
    a, b = (sift_cli.load(path, arch="nets:tiny_resnet") for path in (artifact, "copy.safetensors"))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert {n: m.tolist() for n, m in sift_cli.masks(a).items()} == {
        n: m.tolist() for n, m in sift_cli.masks(b).items()
    }


def test_a_dry_run_writes_nothing_and_its_plan_can_be_carried_out(sift: Sift, checkpoint: Path) -> None:
    base = ("transform", checkpoint, *ARCH, *INPUT)
    dry = sift(*base, "--sparsity", "0.75", "--dry-run", "--json")
    assert dry.exit_code == 0, dry.output
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.pt"]
    Path("plan.json").write_text(dry.stdout)
    done = sift(*base, "--plan", "plan.json", "-o", "planned.safetensors")
    assert done.exit_code == 0, done.output
    direct = sift(*base, "--sparsity", "0.75", "-o", "direct.safetensors")
    assert direct.exit_code == 0, direct.output
    assert Path("planned.safetensors").read_bytes() == Path("direct.safetensors").read_bytes()


def test_the_default_name_of_the_output(sift: Sift, checkpoint: Path) -> None:
    done = sift("transform", checkpoint, *ARCH, *INPUT, "--sparsity", "0.5")
    assert done.exit_code == 0, done.output
    assert Path("tiny-wide-0.5.safetensors").is_file()


def test_a_dense_model_exports_too(sift: Sift, checkpoint: Path, artifact: Path) -> None:
    done = sift("export", checkpoint, *ARCH, *INPUT, "-o", "plain.onnx")
    assert done.exit_code == 0, done.output
    assert json.loads(sift("flops", "plain.onnx", "--json").stdout)["macs"] == {"dense": MACS, "sparse": MACS}
    assert sift("densify", artifact, *ARCH, "-o", "d.safetensors").exit_code == 0
    done = sift("export", "d.safetensors", *ARCH, "-o", "d.onnx")
    assert done.exit_code == 0, done.output
    assert not onnx.load("d.onnx").functions
    # The zeros are still there and still counted as such, though the model is dense now.
    document = json.loads(sift("flops", "d.safetensors", *ARCH, "--json").stdout)
    assert document["macs"]["sparse"] == MACS
    assert json.loads(sift("flops", "d.onnx", "--json").stdout)["macs"]["dense"] == document["macs"]["dense"]


def test_a_zero_in_a_layer_without_a_mask_is_a_weight(sift: Sift, artifact: Path) -> None:
    """Torch counts by masks; the graph must not count by values what the masks leave whole."""
    from sift_cli.export import artifact as artifacts

    model = artifacts.load(artifact, arch="nets:tiny_resnet")
    with torch.no_grad():
        model.module.get_parameter("fc.weight")[0, :5] = 0.0
    artifacts.save(model, Path("zeros.safetensors"))
    assert sift("export", "zeros.safetensors", *ARCH, "-o", "zeros.onnx").exit_code == 0
    for arguments in (("zeros.safetensors", *ARCH), ("zeros.onnx",)):
        assert json.loads(sift("flops", *arguments, "--json").stdout)["macs"]["sparse"] == MACS
