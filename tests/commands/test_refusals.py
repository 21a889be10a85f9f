"""Bad input: one sentence, an exit code of its own, no traceback, and nothing written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from sift_cli.models import load as load_model

Sift = Callable[..., Result]
ARCH = ("--arch", "nets:tiny_resnet", "--input", "1x3x8x8")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pt"
    torch.save(load_model("nets:tiny_resnet", input_shape=(1, 3, 8, 8)).module.state_dict(), path)
    return path


def refused(done: Result, code: int, says: str) -> None:
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert says in " ".join(done.stderr.split()).replace("│ ", "")
    assert "Traceback" not in done.output


@pytest.mark.parametrize("sparsity", ["1.0", "-0.1", "nan", "inf", "half", "", "1e400"])
def test_sparsity(sift: Sift, checkpoint: Path, sparsity: str) -> None:
    before = sorted(os.listdir())
    done = sift("transform", checkpoint, *ARCH, "--sparsity", sparsity)
    assert done.exit_code == 2, done.output
    assert sorted(os.listdir()) == before


def test_neither_sparsity_nor_plan(sift: Sift, checkpoint: Path) -> None:
    refused(sift("transform", checkpoint, *ARCH), 2, "give either --sparsity or --plan")


def test_missing_file(sift: Sift) -> None:
    refused(sift("transform", "nowhere.pt", "--sparsity", "0.9"), 3, "cannot read nowhere.pt")
    refused(sift("inspect", "nowhere.pt"), 3, "cannot read nowhere.pt")
    refused(sift("run", "nowhere.onnx"), 3, "cannot read nowhere.onnx")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_file(sift: Sift, checkpoint: Path, keep: float) -> None:
    data = checkpoint.read_bytes()
    cut = Path("cut.pt")
    cut.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    done = sift("transform", cut, *ARCH, "--sparsity", "0.75", "-o", "o.safetensors")
    assert done.exit_code == 3, done.output
    assert not Path("o.safetensors").exists()


def test_wrong_file(sift: Sift) -> None:
    Path("notes.txt").write_text("this is not a checkpoint\n" * 10)
    refused(sift("inspect", "notes.txt"), 3, "is not a checkpoint sift knows")


def test_only_onnx_files_are_run(sift: Sift, checkpoint: Path) -> None:
    done = sift("run", checkpoint)
    refused(done, 4, "tiny.pt is no ONNX file")
    assert f"sift export {checkpoint} --format onnx -o model.onnx && sift run model.onnx" in done.stderr


def test_unknown_architecture(sift: Sift, checkpoint: Path) -> None:
    refused(sift("transform", checkpoint, "--sparsity", "0.9"), 4, "--arch")
    refused(sift("transform", "torchvision:resnet81", "--sparsity", "0.9"), 4, "resnet81")


def test_pickles_are_not_run(sift: Sift, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/exploded",)

    torch.save({"w": Bomb()}, "bomb.pt")
    done = sift("inspect", "bomb.pt")
    refused(done, 3, "system")
    assert "--allow-pickle" in done.stderr
    assert not (tmp_path / "exploded").exists()


def test_existing_output(sift: Sift, checkpoint: Path) -> None:
    Path("o.safetensors").write_text("precious")
    refused(sift("transform", checkpoint, *ARCH, "--sparsity", "0.75", "-o", "o.safetensors"), 9, "already exists")
    assert Path("o.safetensors").read_text() == "precious"
    done = sift("transform", checkpoint, *ARCH, "--sparsity", "0.75", "-o", "o.safetensors", "--force")
    assert done.exit_code == 0, done.output


def test_missing_folder(sift: Sift, checkpoint: Path) -> None:
    refused(sift("transform", checkpoint, *ARCH, "--sparsity", "0.75", "-o", "no/o.safetensors"), 9, "does not exist")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(sift: Sift, checkpoint: Path) -> None:
    folder = Path("locked")
    folder.mkdir(mode=0o500)
    refused(sift("transform", checkpoint, *ARCH, "--sparsity", "0.75", "-o", "locked/o.safetensors"), 9, "not writable")


def test_full_disk(sift: Sift, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sift_cli.export import artifact

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "save", full)
    before = sorted(os.listdir())
    refused(sift("transform", checkpoint, *ARCH, "--sparsity", "0.75", "-o", "o.safetensors"), 9, "No space left")
    assert sorted(os.listdir()) == before


def test_a_broken_claim_is_exit_code_6_and_no_file(
    sift: Sift, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sift_cli.export import artifact

    real = artifact.load

    def load_with_one_bit_off(*arguments: object, **more: object) -> object:
        model = real(*arguments, **more)  # type: ignore[arg-type]
        with torch.no_grad():
            model.module.get_parameter("fc.bias").view(torch.int32)[0] ^= 1
        return model

    monkeypatch.setattr(artifact, "load", load_with_one_bit_off)
    before = sorted(os.listdir())
    done = sift("transform", checkpoint, *ARCH, "--sparsity", "0.75", "-o", "o.safetensors", "--json")
    refused(done, 6, "roundtrip")
    assert sorted(os.listdir()) == before
    document = json.loads(done.stdout)
    assert [c["name"] for c in document["fields"]["certificate"]["claims"] if c["verdict"] == "broken"] == ["roundtrip"]
    assert document["exit_code"] == 6


def test_missing_extra(sift: Sift, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    done = sift("transform", "timm:resnet18", "--sparsity", "0.9")
    refused(done, 4, "not installed")
    assert "pip install 'sift-cli[timm]'" in done.stderr


def test_an_artifact_cannot_choose_code_to_run(sift: Sift, checkpoint: Path) -> None:
    assert sift("transform", checkpoint, *ARCH, "--sparsity", "0.75", "-o", "w.safetensors").exit_code == 0
    refused(sift("flops", "w.safetensors"), 4, "which is Python code on this machine")
    refused(sift("flops", "w.safetensors", "--arch", "os:getcwd"), 4, "nets:tiny_resnet")


def test_densify_wants_masks(sift: Sift, checkpoint: Path) -> None:
    refused(sift("densify", checkpoint, "-o", "d.pt"), 4, "is dense: it has no masks")


def test_suffix_without_a_format(sift: Sift, checkpoint: Path) -> None:
    refused(sift("export", checkpoint, *ARCH, "-o", "model.bin"), 7, "--format")


def test_a_plan_for_another_model(sift: Sift, checkpoint: Path) -> None:
    dry = sift("transform", "builtin:cifar_resnet18", "--sparsity", "0.5", "--dry-run", "--json")
    Path("plan.json").write_text(dry.stdout)
    refused(sift("transform", checkpoint, *ARCH, "--plan", "plan.json"), 5, "the plan is for builtin:cifar_resnet18")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": "sift.plan/1"}', "{" * 100_000, '{"schema": "sift.plan/2"}']
)
def test_a_file_that_is_no_plan(sift: Sift, checkpoint: Path, text: str) -> None:
    Path("plan.json").write_text(text)
    refused(sift("transform", checkpoint, *ARCH, "--plan", "plan.json"), 5, "plan.json is not a plan")


def test_errors_as_json(sift: Sift) -> None:
    done = sift("inspect", "nowhere.pt", "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "sift.error/1"
    assert document["error"] == "Unreadable"
    assert document["exit_code"] == done.exit_code == 3
    assert document["fields"]["path"] == "nowhere.pt"


def test_bad_shape(sift: Sift) -> None:
    refused(sift("flops", "builtin:cifar_resnet18", "--input", "1x3xfour"), 2, "1x3x224x224")


def test_bad_dim(sift: Sift) -> None:
    refused(sift("flops", "builtin:cifar_resnet18", "--dim", "batch"), 2, "NAME=SIZE")
