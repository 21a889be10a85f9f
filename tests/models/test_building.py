"""Building: seeds, meta, sources, factories, and packages that are not there."""

import hashlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from sift_cli import registry
from sift_cli.compat import import_torchvision
from sift_cli.core.plan import Architecture, InputSpec
from sift_cli.errors import MissingExtra, ModelError, UnknownArchitecture
from sift_cli.models import build, example_inputs, input_specs, parse_architecture


def digest(model: nn.Module) -> str:
    parts = [name.encode() + tensor.numpy().tobytes() for name, tensor in model.state_dict().items()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("text", ["builtin:cifar_resnet18", "torchvision:resnet18", "timm:resnet18"])
def test_a_seed_gives_the_same_weights_in_another_process(text: str) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_building import digest\n"
        "from sift_cli.models import build, parse_architecture\n"
        "import torch; torch.manual_seed(99)\n"
        f"print(digest(build(parse_architecture({text!r}), seed=3)))"
    )
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code, here, root], capture_output=True, text=True, check=True)
    model = build(parse_architecture(text), seed=3)
    assert run.stdout.strip() == digest(model)
    assert digest(build(parse_architecture(text), seed=4)) != digest(model)


def test_a_seed_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build(Architecture("builtin", "cifar_resnet18"), seed=3)
    example_inputs(Architecture("builtin", "cifar_resnet18"), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    build(Architecture("builtin", "cifar_resnet18"))
    assert not torch.equal(torch.get_rng_state(), before)


def test_models_are_in_eval_mode_and_on_meta_where_asked() -> None:
    for name in ("resnet18", "regnet_y_400mf"):  # the latter does not build under torch.device("meta")
        model = build(Architecture("torchvision", name), device="meta")
        assert not any(module.training for module in model.modules())
        assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_torchvision_models_have_the_number_of_parameters_that_torchvision_publishes() -> None:
    models = import_torchvision().models
    for name in models.list_models(module=models):
        if name.startswith("regnet") and name.endswith(("16gf", "32gf", "128gf")):
            continue  # built on the CPU: seconds each
        # Published numbers are of the model as built with weights, which is without its auxiliary heads.
        kwargs = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = build(Architecture("torchvision", name, kwargs), device="meta")
        weights = min(models.get_model_weights(name), key=lambda one: one.transforms.keywords["crop_size"])
        published = weights.meta["num_params"]
        if name == "inception_v3":
            published -= 3_326_696  # torchvision counts the auxiliary head of this one
        assert sum(p.numel() for p in model.parameters()) == published, name


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("builtin:cifar_resnet34", (1, 3, 32, 32)),
        ("torchvision:resnet18", (1, 3, 224, 224)),
        ("torchvision:inception_v3", (1, 3, 299, 299)),
        ("torchvision:efficientnet_b7", (1, 3, 600, 600)),
        ("torchvision:vit_h_14", (1, 3, 224, 224)),
        ("timm:resnet18", (1, 3, 224, 224)),
        ("timm:vit_base_patch16_384", (1, 3, 384, 384)),
        ("timm:resnet18.a1_in1k", (1, 3, 224, 224)),
    ],
)
def test_input_shapes(text: str, shape: tuple[int, ...]) -> None:
    assert input_specs(parse_architecture(text)) == (InputSpec(shape),)
    (image,) = example_inputs(parse_architecture(text))
    assert image.shape == shape
    assert image.dtype == torch.float32


def test_input_shapes_follow_the_arguments() -> None:
    (large,) = input_specs(Architecture("torchvision", "vit_b_16", {"image_size": 384}))
    (grey,) = input_specs(Architecture("timm", "vit_base_patch16_224", {"img_size": 96, "in_chans": 1}))
    assert (large.shape, grey.shape) == ((1, 3, 384, 384), (1, 1, 96, 96))


def test_example_inputs_are_the_seeds() -> None:
    architecture = Architecture("builtin", "cifar_resnet18")
    (a,), (b,), (c,) = (example_inputs(architecture, (1, 3, 40, 32), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("source", registry.names("sift_cli.models.sources"))
def test_every_source_builds_with_any_number_of_classes(source: str) -> None:
    plugin = registry.discover("sift_cli.models.sources")[source]
    for name in sorted(plugin.names(), key=lambda name: (len(name), name))[:1]:
        (spec,) = plugin.inputs(name, {})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = build(Architecture(source, name, {"num_classes": 17}), seed=0)
        assert model(torch.zeros(spec.shape)).shape == (1, 17)
        assert plugin.has(name)
        assert not plugin.has("no_such_model")


def test_parsing() -> None:
    assert parse_architecture("torchvision:resnet18") == Architecture("torchvision", "resnet18")
    factory = Architecture("factory", "package.module:make.model")
    assert parse_architecture("package.module:make.model") == factory
    assert parse_architecture(str(factory)) == factory
    lookalike = Architecture("factory", "torchvison:resnet18")
    assert parse_architecture("factory:torchvison:resnet18") == lookalike
    assert parse_architecture("torchvison:mine") == Architecture("factory", "torchvison:mine")


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("torchvision:resnet81", "torchvision:resnet18"),
        ("timm:resnet18.no_such_tag", "timm:resnet18"),
        ("resnet18", "torchvision:resnet18"),
        ("torchvison:resnet18", "torchvision:resnet18"),
        ("builtin:cifar_resnet50", "builtin:cifar_resnet"),
        ("nonsense", "package.module:factory"),
        ("torchvision:", "torchvision:"),
        ("", "package.module:factory"),
    ],
)
def test_unknown_names_come_with_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UnknownArchitecture) as caught:
        parse_architecture(text)
    assert nearest in (caught.value.hint or "")


def test_unknown_architectures_do_not_build() -> None:
    with pytest.raises(UnknownArchitecture, match="torchvision:resnet19"):
        build(Architecture("torchvision", "resnet19"))
    with pytest.raises(UnknownArchitecture, match="torchvison:resnet18"):
        build(Architecture("torchvison", "resnet18"))
    with pytest.raises(ModelError, match="no_such_argument"):
        build(Architecture("torchvision", "resnet18", {"no_such_argument": 1}))


FACTORIES = """
import torch
from torch import nn

constant = 3

def tiny(num_classes=4, width=6):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

def reads_values():
    return nn.Linear(4, int(torch.arange(4).sum()))

def not_a_model():
    return 7

def fails():
    raise OSError("no such disk")
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, under a name of its own for each test."""
    name = f"factories_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    (tmp_path / f"{name}_broken.py").write_text("import no_such_package\n")
    (tmp_path / f"{name}_wrong.py").write_text("1 +\n")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_factory_of_the_current_folder(factories: str) -> None:
    path = list(sys.path)
    architecture = parse_architecture(f"{factories}:tiny")
    model = build(Architecture(architecture.source, architecture.name, {"num_classes": 9}), seed=0)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 9)
    assert sys.path == path
    with pytest.raises(ModelError) as caught:
        example_inputs(architecture)
    assert "--input" in (caught.value.hint or "")


def test_a_factory_that_computes_with_values_builds_on_meta_too(factories: str) -> None:
    model = build(parse_architecture(f"{factories}:reads_values"), device="meta")
    assert model.weight.shape == (6, 4)
    assert model.weight.is_meta


@pytest.mark.parametrize(
    ("suffix", "kind", "message"),
    [
        (":nothing", UnknownArchitecture, "has no nothing"),
        (":constant", ModelError, "is a int, which cannot be called"),
        (":not_a_model", ModelError, "returned a int"),
        (":fails", ModelError, "OSError: no such disk"),
        ("_none:tiny", UnknownArchitecture, "there is no module"),
        (".inner:tiny", UnknownArchitecture, "there is no module"),
        ("_broken:tiny", ModelError, "no_such_package"),
        ("_wrong:tiny", ModelError, "SyntaxError"),
    ],
)
def test_factories_that_go_wrong(factories: str, suffix: str, kind: type[ModelError], message: str) -> None:
    for device in ("cpu", "meta"):
        with pytest.raises(kind, match=message):
            build(parse_architecture(f"{factories}{suffix}"), device=device)


@pytest.mark.parametrize(
    ("absent", "text", "extra"),
    [
        ("torchvision", "torchvision:resnet18", "torchvision"),
        ("timm", "timm:resnet18", "timm"),
        ("torchvision", "timm:resnet18", "timm"),
    ],
)
def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, absent: str, text: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    architecture = parse_architecture(text)
    with pytest.raises(MissingExtra) as caught:
        build(architecture)
    assert text in str(caught.value)
    assert caught.value.hint == f"pip install 'sift-cli[{extra}]'"
