"""Models that are not quite like the others, and files that were edited by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

import sift_cli
from sift_cli import api
from sift_cli.core.plan import Architecture
from sift_cli.errors import CheckpointError, ExportError, ModelError, PlanError, SiftError
from sift_cli.export import artifact
from sift_cli.export.onnx import to_onnx

SHAPE = (1, 3, 8, 8)
Sift = Callable[..., Result]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made") / "w.safetensors"
    api.transform("nets:tiny_resnet", output, sparsity="3/4", input_shape=SHAPE)
    return output


@pytest.fixture
def wide(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copy(made, tmp_path / "w.safetensors")


@pytest.mark.parametrize("init", ["scratch", "preserve"])
@pytest.mark.parametrize("net", ["frozen", "zero_head", "random_buffer", "cached_buffer", "versioned"])
def test_odd_models_go_all_the_way(net: str, init: str, tmp_path: Path) -> None:
    source, output = tmp_path / "w.safetensors", tmp_path / "w.onnx"
    api.transform(f"nets:{net}", source, sparsity="3/4", init=init, seed=5, input_shape=SHAPE)
    assert api.export(source, output, arch=f"nets:{net}").certificate.held
    if net == "random_buffer":  # drawn by the constructor, so it has to be drawn with the transform's seed
        first, second = (artifact.load(source, arch=f"nets:{net}").module.get_buffer("noise") for _ in range(2))
        assert torch.equal(first, second)


def test_the_output_meant_is_taken_out_of_a_dict(tmp_path: Path) -> None:
    source, output = tmp_path / "w.safetensors", tmp_path / "w.onnx"
    api.transform("nets:in_a_dict", source, sparsity="3/4", input_shape=SHAPE)
    assert api.export(source, output, arch="nets:in_a_dict").certificate.held
    x = torch.randn(2, *SHAPE[1:])
    (got,) = sift_cli.session(output).run(["output"], {"input": x.numpy()})
    with torch.no_grad():
        wanted = sift_cli.load(source, arch="nets:in_a_dict")(x)["logits"]
    torch.testing.assert_close(torch.from_numpy(got), wanted)


def test_an_output_without_a_tensor_is_refused() -> None:
    with pytest.raises(ExportError, match="returns a NoneType without a tensor"):
        to_onnx(NoOutput(), (torch.zeros(SHAPE),), {}, {})


class NoOutput(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> None:
        return None


@pytest.mark.parametrize("sparsity", ["0.5", "0.6", "0.75", "0.8"])
def test_a_strided_depthwise_layer_does_not_break_the_bound(sparsity: str, tmp_path: Path) -> None:
    written = api.transform(
        "nets:tiny_strided", tmp_path / "w.safetensors", sparsity=sparsity, input_shape=(1, 3, 9, 9)
    )
    assert written.certificate.held


def test_masks_of_a_wrapped_model(wide: Path) -> None:
    model = sift_cli.load(wide, arch="nets:tiny_resnet")
    wrapped = torch.nn.DataParallel(model)
    assert {f"module.{name}" for name in sift_cli.masks(model)} == set(sift_cli.masks(wrapped))
    with torch.no_grad():
        model.get_parameter("layer1.conv1.weight").fill_(1.0)
    sift_cli.apply_masks(wrapped)
    mask = sift_cli.masks(model)["layer1.conv1.weight"]
    assert torch.equal(model.get_parameter("layer1.conv1.weight") != 0, mask)
    with pytest.raises(ModelError, match="no masks"):
        sift_cli.apply_masks(torch.nn.Linear(2, 2))


def test_densifying_leaves_its_argument_alone(wide: Path) -> None:
    model = artifact.load(wide, arch="nets:tiny_resnet")
    dense = artifact.densified(model)
    assert len(sift_cli.masks(model.module)) == 5
    assert not sift_cli.masks(dense.module)


def test_exporting_leaves_modes_alone(wide: Path) -> None:
    module = artifact.load(wide, arch="nets:tiny_resnet").module.train()
    module.get_submodule("bn1").eval()
    to_onnx(module, (torch.zeros(SHAPE),), {}, {})
    assert module.training
    assert not module.get_submodule("bn1").training


def test_flops_at_another_input(wide: Path) -> None:
    small = api.flops(wide, arch="nets:tiny_resnet")
    large = api.flops(wide, arch="nets:tiny_resnet", input_shape=(1, 3, 16, 16))
    convolutions = small.sparse - 640  # the head has 64 inputs and 10 outputs, whatever the image's size
    assert large.sparse == 4 * convolutions + 640


def test_export_at_another_input(wide: Path, tmp_path: Path) -> None:
    written = api.export(wide, tmp_path / "large.onnx", arch="nets:tiny_resnet", input_shape=(1, 3, 16, 16))
    assert {claim.name for claim in written.certificate.claims} == {"mask_cardinality", "io_shapes", "same_function"}


def test_a_batch_is_refused() -> None:
    with pytest.raises(ModelError, match="is a batch of 4"):
        api.flops("builtin:cifar_resnet18", input_shape=(4, 3, 32, 32))


def test_options_beside_a_plan_are_refused(sift: Sift, tmp_path: Path) -> None:
    dry = sift("transform", "builtin:cifar_resnet18", "--sparsity", "0.5", "--dry-run", "--json")
    Path("plan.json").write_text(dry.stdout)
    done = sift("transform", "builtin:cifar_resnet18", "--plan", "plan.json", "--init", "preserve")
    assert done.exit_code == 2
    assert "a plan is complete" in done.stderr
    assert sift("transform", "nowhere.pt", "--plan", "plan.json", "--dry-run").exit_code == 3
    assert sift("transform", "builtin:cifar_resnet18", "--plan", "plan.json", "--dry-run").exit_code == 0


EDITED: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown promise": lambda p: p.update(promises=["x"]),
    "no options": lambda p: p.update(options={}),
    "no sparsity": lambda p: p.update(sparsity="abc"),
    "sparsity 2": lambda p: p.update(sparsity="2"),
    "another kind": lambda p: p.update(kind="zzz"),
    "unknown key": lambda p: p.update(foo=1),
    "axis 7": lambda p: next(e for e in p["edits"] if e["edit"] == "fill_tensor").update(grown_axis=7),
    "endless axis": lambda p: p["edits"][0].update(new=10**30),
    "a terabyte": lambda p: p["edits"][0].update(new=10**9),
    "no weights": lambda p: p["layers"][0].update(numel_after=0),
    "more kept than there are": lambda p: p["layers"][1].update(nonzero_after=10**9),
    "negative input": lambda p: p.update(inputs=[{"shape": [1, 3, -5, 8]}]),
    "huge input": lambda p: p.update(inputs=[{"shape": [1, 3, 10**6, 10**6]}]),
    "no input": lambda p: p.update(inputs=[]),
    "input of another type": lambda p: p.update(inputs=[{"shape": [1, 3, 8, 8], "dtype": "complex128"}]),
    "input by no name": lambda p: p.update(inputs=[{"shape": [1, 3, 8, 8], "name": "a b"}]),
    "input by position and by name": lambda p: p["inputs"].append({"shape": [1, 2], "name": "x"}),
    "input twice": lambda p: p.update(inputs=[{"shape": [1, 2], "name": "x"}] * 2),
    "input with no values": lambda p: p.update(inputs=[{"shape": [1, 2], "dtype": "int64", "high": 0}]),
    "floats below": lambda p: p.update(inputs=[{"shape": [1, 3, 8, 8], "high": 7}]),
    "unknown key of an input": lambda p: p["inputs"][0].update(x=1),
    "private attribute": lambda p: p["edits"].append(
        {"edit": "set_attribute", "module": "", "attribute": "__class__", "old": 1, "new": 1}
    ),
}


@pytest.mark.parametrize("edit", EDITED)
def test_an_edited_plan_is_refused(sift: Sift, wide: Path, edit: str) -> None:
    from sift_cli.checkpoint import open_checkpoint

    with open_checkpoint(wide) as checkpoint:
        plan = json.loads(checkpoint.metadata["sift.plan"])
    EDITED[edit](plan)
    Path("plan.json").write_text(json.dumps(plan))
    done = sift(
        "transform", "nets:tiny_resnet", "--input", "1x3x8x8", "--plan", "plan.json", "-o", "out.safetensors"
    )  # fmt: skip
    assert done.exit_code == 5, done.output
    assert isinstance(done.exception, SystemExit)
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize("edit", [name for name in EDITED if name not in ("unknown promise", "another kind")])
def test_an_edited_artifact_is_refused(wide: Path, edit: str) -> None:
    from sift_cli.checkpoint import open_checkpoint
    from sift_cli.checkpoint.artifact import add_metadata

    with open_checkpoint(wide) as checkpoint:
        plan = json.loads(checkpoint.metadata["sift.plan"])
    EDITED[edit](plan)
    add_metadata(wide, {"sift.plan": json.dumps(plan)})
    if edit == "axis 7":  # a fill is not carried out again when a file is loaded
        sift_cli.load(wide, arch="nets:tiny_resnet")
        return
    with pytest.raises((CheckpointError, ModelError)):
        sift_cli.load(wide, arch="nets:tiny_resnet")


@pytest.mark.parametrize("kwargs", [{"checkpoint_path": "/evil"}, {"num_classes": "7"}, {"pretrained": True}])
def test_a_file_cannot_ask_for_any_argument(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no argument"):
        Architecture.from_json({"source": "timm", "name": "resnet18", "kwargs": kwargs})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sparsity": "0.02"}, "a width that grows"),
        ({"sparsity": "0.999999999999999999"}, "GB for its dense tensors"),
    ],
)
def test_extreme_sparsities_are_refused(options: dict[str, str], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        api.plan("nets:tiny_resnet", input_shape=SHAPE, **options)


def test_a_multiple_never_shrinks_a_width() -> None:
    plan = api.plan("nets:tiny_resnet", input_shape=SHAPE, sparsity="0.1", multiple=24)
    assert {layer.name: layer.numel_after for layer in plan.layers}["layer2.conv2"] == 48 * 48 * 9


def test_forged_claims_are_not_carried_over(wide: Path, tmp_path: Path) -> None:
    from sift_cli.checkpoint.artifact import add_metadata

    forged = {"name": "same_function", "verdict": "held", "before": 0, "after": 0, "bound": "FORGED", "counter": "god"}
    add_metadata(wide, {"sift.certificate": json.dumps({"schema": "sift.certificate/1", "claims": [forged]})})
    written = api.export(wide, tmp_path / "copy.safetensors", arch="nets:tiny_resnet")
    assert {claim.name for claim in written.certificate.claims} == {
        "roundtrip", "same_function", "iso_flop", "mask_cardinality",
    }  # fmt: skip
    assert not any(claim.counter == "god" for claim in written.certificate.claims)


def test_things_that_are_no_files_are_not_replaced(wide: Path, tmp_path: Path) -> None:
    import os

    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(SiftError, match="no regular file"):
        api.densify(wide, pipe, arch="nets:tiny_resnet", force=True)
    assert pipe.is_fifo()


def test_control_characters_of_a_file_do_not_reach_the_terminal(sift: Sift) -> None:
    torch.save({"\x1b[31mred": torch.zeros(2)}, "red.pt")
    done = sift("inspect", "red.pt")
    assert "\x1b[31m" not in done.stdout
    assert "\\x1b[31mred" in done.stdout


@pytest.mark.parametrize("output", ["demo-file", "demo-file/inside"])
def test_demo_into_a_file(sift: Sift, output: str) -> None:
    Path("demo-file").write_text("")
    done = sift("demo", "--output", output)
    assert done.exit_code == 9, done.output


@pytest.mark.parametrize(
    "arguments", [("--sparsity", "nan"), ("--sparsity", "0.5", "--kind", "nonsense"), ("--nonsense",)]
)
def test_usage_errors_are_one_sentence_and_json(sift: Sift, arguments: tuple[str, ...]) -> None:
    done = sift("transform", "m.pt", *arguments)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 2
    as_json = sift("transform", "--json", "m.pt", *arguments)
    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout)["exit_code"] == 2
