"""Files and names → models with the right weights in them."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sift_cli.core.plan import Architecture
from sift_cli.errors import AmbiguousArchitecture, CheckpointError, ModelError, UnknownArchitecture
from sift_cli.models import build, load

RESNET = Architecture("torchvision", "resnet18", {"num_classes": 10})


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """Weights, statistics and counters all unlike those of any fresh model."""
    model = build(RESNET, seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator))
            else:
                tensor.fill_(77)
    return model


def assert_same(model: nn.Module, expected: nn.Module) -> None:
    ours, theirs = model.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_file_is_recognised_and_loaded(tmp_path: Path, resnet: nn.Module, prefix: str, kind: str) -> None:
    path = tmp_path / "weights"
    state = {f"{prefix}{name}": tensor for name, tensor in resnet.state_dict().items()}
    if kind == "pt":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    loaded = load(path)
    assert loaded.architecture == RESNET
    assert_same(loaded.module, resnet)
    assert not loaded.module.training
    assert [tuple(x.shape) for x in loaded.inputs] == [(1, 3, 224, 224)]
    assert loaded.provenance["source"] == "weights"
    assert loaded.provenance["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(loaded.provenance["versions"]) == {"torch", "torchvision"}
    (note,) = loaded.provenance["notes"]
    assert "torchvision:resnet18" in note
    assert "timm:resnetblur18" in note


def test_batch_counters_may_be_missing(tmp_path: Path, resnet: nn.Module) -> None:
    path = tmp_path / "old.pt"
    torch.save({n: t for n, t in resnet.state_dict().items() if not n.endswith("num_batches_tracked")}, path)
    state = load(path).module.state_dict()
    assert torch.equal(state["layer4.1.bn2.running_var"], resnet.state_dict()["layer4.1.bn2.running_var"])
    assert state["bn1.num_batches_tracked"].item() == 0


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "F16"), (torch.bfloat16, "BF16"), (torch.float64, "F64")])
def test_other_floats_are_cast_and_said_so(tmp_path: Path, resnet: nn.Module, dtype: torch.dtype, name: str) -> None:
    path = tmp_path / "half.safetensors"
    stored = {n: t.to(dtype) if t.is_floating_point() else t for n, t in resnet.state_dict().items()}
    save_file(stored, path)
    loaded = load(path)
    for key, tensor in loaded.module.state_dict().items():
        assert torch.equal(tensor, stored[key].to(tensor.dtype)), key
    assert loaded.module.fc.weight.dtype == torch.float32
    assert loaded.provenance["notes"][-1] == f"weights stored as {name} were cast to float32"


def test_an_architecture_instead_of_a_file() -> None:
    loaded = load("torchvision:resnet18", seed=2)
    assert loaded.architecture == Architecture("torchvision", "resnet18")
    assert_same(loaded.module, build(Architecture("torchvision", "resnet18"), seed=2))
    assert loaded.provenance["seed"] == 2
    assert "sha256" not in loaded.provenance


def test_a_file_wins_over_an_architecture_of_the_same_name(
    tmp_path: Path, resnet: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(resnet.state_dict(), "torchvision:resnet34")
    assert load("torchvision:resnet34").architecture == RESNET


@pytest.mark.parametrize(
    ("source", "kind", "hint"),
    [
        ("resnet18", UnknownArchitecture, "torchvision:resnet18"),
        ("torchvision:resnet19", UnknownArchitecture, "torchvision:resnet1"),
        ("no_such_file.pt", CheckpointError, ""),
    ],
)
def test_neither_a_file_nor_an_architecture(source: str, kind: type[Exception], hint: str) -> None:
    with pytest.raises(kind) as caught:
        load(source)
    assert hint in (getattr(caught.value, "hint", None) or "")


def test_arch_with_an_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match="is an architecture already"):
        load("torchvision:resnet18", arch="timm:resnet18")


def test_arch_settles_a_tie(tmp_path: Path) -> None:
    path = tmp_path / "efficientnet.pt"
    expected = build(Architecture("timm", "tf_efficientnet_b0", {"num_classes": 3}), seed=1)
    torch.save(expected.state_dict(), path)
    with pytest.raises(AmbiguousArchitecture):
        load(path)
    loaded = load(path, arch="timm:tf_efficientnet_b0")
    assert loaded.architecture == Architecture("timm", "tf_efficientnet_b0", {"num_classes": 3})
    assert_same(loaded.module, expected)
    assert torch.equal(loaded.module(loaded.inputs[0]), expected(loaded.inputs[0]))


def test_arch_chooses_among_equals_and_takes_tags(tmp_path: Path, resnet: nn.Module) -> None:
    path = tmp_path / "r18.pt"
    torch.save(resnet.state_dict(), path)
    for text in ("timm:resnet18", "timm:resnet18.a1_in1k"):
        loaded = load(path, arch=text)
        assert str(loaded.architecture) == text
        assert loaded.architecture.kwargs == {"num_classes": 10}
        assert_same(loaded.module, resnet)


def test_arch_knows_that_the_classifier_is_missing(tmp_path: Path) -> None:
    """deit_tiny and vit_tiny are one function; the file has no classifier, and the name asked for is the second's."""
    architecture = Architecture("timm", "deit_tiny_patch16_224", {"num_classes": 0})
    torch.save(build(architecture, seed=1).state_dict(), tmp_path / "deit.pt")
    assert load(tmp_path / "deit.pt", arch="timm:deit_tiny_patch16_224").architecture == architecture


def test_an_architecture_with_arguments_is_taken_as_it_is(tmp_path: Path, resnet: nn.Module) -> None:
    path = tmp_path / "r18.pt"
    torch.save(resnet.state_dict(), path)
    assert_same(load(path, arch=RESNET).module, resnet)
    with pytest.raises(ModelError, match=r"fc\.weight is 10×512 instead of 1000×512"):
        load(path, arch=Architecture("torchvision", "resnet18"))


FACTORY = """
from torch import nn

def tiny(num_classes=4):
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), pool, nn.Flatten(), nn.Linear(6, num_classes))

def fixed():
    return tiny()
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"models_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_factory_gets_its_number_of_classes_from_the_file(tmp_path: Path, factory: str) -> None:
    expected = build(Architecture("factory", f"{factory}:tiny", {"num_classes": 9}), seed=1)
    torch.save({f"net.{name}": tensor for name, tensor in expected.state_dict().items()}, tmp_path / "tiny.pt")
    loaded = load(tmp_path / "tiny.pt", arch=f"{factory}:tiny", input_shape=(1, 3, 8, 8))
    assert loaded.architecture == Architecture("factory", f"{factory}:tiny", {"num_classes": 9})
    assert_same(loaded.module, expected)
    assert loaded.module(*loaded.inputs).shape == (1, 9)
    with pytest.raises(ModelError, match=r"4\.weight is 9×6 instead of 4×6"):
        load(tmp_path / "tiny.pt", arch=f"{factory}:fixed", input_shape=(1, 3, 8, 8))


def test_weights_of_another_architecture_are_refused(tmp_path: Path, resnet: nn.Module) -> None:
    path = tmp_path / "r18.pt"
    torch.save(resnet.state_dict(), path)
    with pytest.raises(ModelError) as caught:
        load(path, arch="torchvision:resnet34")
    # 34 layers have 4 + 8 more convolutions with a BatchNorm each: 16 of 6 tensors, less the counters.
    assert len(caught.value.fields["missing"]) == 16 * 5
    assert "layer1.2.conv1.weight" in str(caught.value)
    assert "and 77 more" in str(caught.value)
    state = resnet.state_dict()
    state["head.weight"] = state.pop("fc.weight")
    torch.save(state, path)
    with pytest.raises(ModelError) as caught:
        load(path, arch="torchvision:resnet18")
    assert "it lacks fc.weight (nearest: head.weight)" in str(caught.value)
    assert caught.value.fields["unexpected"] == ["head.weight"]


def test_transformed_files_are_not_loaded_as_plain_ones(tmp_path: Path, resnet: nn.Module) -> None:
    path = tmp_path / "sparse.safetensors"
    save_file(resnet.state_dict(), path, metadata={"sift.plan": "{}"})
    with pytest.raises(ModelError, match="sift transformed"):
        load(path)
