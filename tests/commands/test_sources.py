"""The same weights from every kind of file make the same model; who decides what a file is, and which architecture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import Result

import sift_cli
from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._ask import choosing
from sift_cli.errors import AmbiguousArchitecture
from sift_cli.models import load as load_model

Sift = Callable[..., Result]
SHAPE = (1, 3, 8, 8)
ARCH = ("--arch", "nets:tiny_resnet", "--input", "1x3x8x8")


def _state(net: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in net.state_dict().items()}


def _script(net: nn.Module, path: str) -> None:
    torch.jit.trace(net, torch.zeros(SHAPE)).save(path)


def _safetensors(net: nn.Module, path: str) -> None:
    from safetensors.torch import save_file

    save_file(_state(net), path)


#: How to write a net, always to a file whose suffix is wrong: content decides.
WRITERS: dict[str, Callable[[nn.Module, str], None]] = {
    "state_dict": lambda net, path: torch.save(_state(net), path),
    "legacy": lambda net, path: torch.save(_state(net), path, _use_new_zipfile_serialization=False),
    "wrapped": lambda net, path: torch.save({"state_dict": _state(net, "module."), "epoch": 3}, path),
    "ema": lambda net, path: torch.save({"ema": _state(net, "_orig_mod.backbone.")}, path),
    "any prefix": lambda net, path: torch.save({"model": _state(net, "net.encoder.")}, path),
    "module": lambda net, path: torch.save(net, path),
    "TorchScript": _script,
    "pt2": lambda net, path: torch.export.save(torch.export.export(net, (torch.zeros(SHAPE),)), path),
    "safetensors": _safetensors,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", WRITERS)
def test_every_file_makes_the_same_model(sift: Sift, kind: str, tmp_path: Path) -> None:
    original = load_model("nets:tiny_resnet", input_shape=SHAPE)
    if kind != "pt2":
        WRITERS[kind](original.module, "weights.onnx.txt")
    else:  # torch.export.save insists on its suffix
        torch.export.save(torch.export.export(original.module, (torch.zeros(SHAPE),)), "weights.pt2")
        Path("weights.pt2").rename("weights.onnx.txt")
    allow = ("--allow-pickle",) if kind == "module" else ()
    options = ("--sparsity", "0.75", "--init", "preserve", "--match", "layer", "-o", "w.safetensors")
    if kind == "module":
        refused = sift("transform", "weights.onnx.txt", *ARCH, *options)
        assert refused.exit_code == 3
        assert "nets.TinyResNet" in refused.stderr
    done = sift("transform", "weights.onnx.txt", *ARCH, *allow, *options)
    assert done.exit_code == 0, done.output
    wide = sift_cli.load("w.safetensors", arch="nets:tiny_resnet")
    for name, weight in original.module.named_parameters():
        block = wide.get_parameter(name)[tuple(slice(0, size) for size in weight.shape)]
        assert torch.equal(block, weight), name


def test_a_name_that_is_a_file_is_the_file(sift: Sift) -> None:
    Path("torchvision:resnet18").write_text("a file after all")
    done = sift("flops", "torchvision:resnet18")
    assert done.exit_code == 3
    assert "is not a checkpoint sift knows" in done.stderr


def test_the_architecture_is_recognised_and_shown(sift: Sift) -> None:
    net = load_model("builtin:cifar_resnet18").module
    torch.save({"model": _state(net, "module.")}, "c.pt")
    assert (
        json.loads(sift("inspect", "c.pt", "--json").stdout)["architecture"] == "builtin:cifar_resnet18 (100 classes)"
    )
    document = json.loads(sift("flops", "c.pt", "--json").stdout)
    assert document["macs"]["dense"] == 555_468_800


def test_official_counts_are_those_of_the_official_profiler(sift: Sift) -> None:
    document = json.loads(sift("flops", "builtin:cifar_resnet18", "--count", "official", "--json").stdout)
    assert document["total"] == 1_115_226_800
    assert document["convention"] == "official"


def test_a_tie_is_asked_about_where_someone_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    _output.begin(as_json=False)
    asked: list[dict[str, object]] = []

    def function(source: str, **arguments: object) -> str:
        asked.append(arguments)
        if arguments["arch"] is None:
            raise AmbiguousArchitecture(source, ["timm:a", "timm:b"])
        return "done"

    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(AmbiguousArchitecture) as caught:
        choosing("asking", function, "m.pt", arch=None)
    assert "--arch timm:a" in str(caught.value.hint)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: 2)
    assert choosing("asking", function, "m.pt", arch=None) == "done"
    assert asked[-1] == {"arch": "timm:b"}
    monkeypatch.setattr("typer.prompt", lambda *_, **__: 3)
    with pytest.raises(AmbiguousArchitecture):
        choosing("asking", function, "m.pt", arch=None)


def test_timms_and_torchvisions_resnet18_are_no_tie(sift: Sift) -> None:
    from sift_cli import compat

    try:
        compat.import_timm()
    except sift_cli.SiftError:
        pytest.skip("needs timm")
    torch.save(_state(load_model("timm:resnet18").module), "r.pt")
    assert json.loads(sift("inspect", "r.pt", "--json").stdout)["architecture"].startswith("torchvision:resnet18")
    assert api.flops("r.pt").dense == 1_814_073_344
