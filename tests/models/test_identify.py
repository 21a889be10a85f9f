"""Recognising architectures from names and shapes."""

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.compat import import_timm, import_torchvision
from sift_cli.core.plan import Architecture
from sift_cli.core.tensors import TensorSpec
from sift_cli.errors import AmbiguousArchitecture, UnknownArchitecture
from sift_cli.models import architecture_of, build, identify
from sift_cli.models.fingerprints import hash_names, hash_shapes, table


class Shapes(Checkpoint):
    """A checkpoint of names and shapes whose values must not be read."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path, self.format, self.metadata = Path("model.pt"), "shapes", {}
        self.tensors = {name: TensorSpec(name, tuple(shape), "F32", 0) for name, shape in shapes.items()}

    def _read(self, name: str) -> np.ndarray:
        raise AssertionError(f"{name} was read")


def shapes(text: str, **kwargs: object) -> dict[str, tuple[int, ...]]:
    source, _, name = text.partition(":")
    model = build(Architecture(source, name, kwargs), device="meta")
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_every_torchvision_model() -> None:
    models = import_torchvision().models
    for index, name in enumerate(models.list_models(module=models)):
        if name.startswith("regnet") and name.endswith(("16gf", "32gf", "128gf")):
            continue  # built on the CPU: seconds each
        classes = (10, 1000)[index % 2]
        found = identify(Shapes(shapes(f"torchvision:{name}", num_classes=classes)))
        assert found.architecture == Architecture("torchvision", name, {"num_classes": classes})
        assert found.num_classes == classes


def test_the_table_knows_the_slow_ones_too() -> None:
    slow = ("x_16gf", "x_32gf", "y_16gf", "y_32gf", "y_128gf")
    assert {f"torchvision:regnet_{name}" for name in slow} < set(table().names)


def test_a_sample_of_timm() -> None:
    """Every 34th name: recognised alone, or among the candidates of a tie; and told apart from all others."""
    ties = 0
    for name in import_timm().list_models()[::34]:
        layout = Shapes(shapes(f"timm:{name}", num_classes=21))
        try:
            found = identify(layout)
        except AmbiguousArchitecture as error:
            ties += 1
            assert f"timm:{name}" in error.fields["candidates"]  # noqa: PT017
        else:
            names = [str(one) for one in (found.architecture, *found.same)]
            assert f"timm:{name}" in names
            assert found.architecture.kwargs == {"num_classes": 21}
    assert ties < 10


@pytest.mark.parametrize("name", ["cifar_resnet18", "cifar_resnet34"])
@pytest.mark.parametrize("classes", [1, 10, 100, 512])
def test_builtin(name: str, classes: int) -> None:
    found = identify(Shapes(shapes(f"builtin:{name}", num_classes=classes)))
    assert found.architecture == Architecture("builtin", name, {"num_classes": classes})


@pytest.mark.parametrize(
    "kwargs",
    [("googlenet", {"aux_logits": False}), ("inception_v3", {"aux_logits": False}), ("vit_b_16", {"image_size": 384})],
)
def test_variants_of_published_files(kwargs: tuple[str, dict[str, object]]) -> None:
    name, arguments = kwargs
    found = identify(Shapes(shapes(f"torchvision:{name}", num_classes=6, **arguments)))
    assert found.architecture == Architecture("torchvision", name, {**arguments, "num_classes": 6})


def test_order_prefixes_and_batch_counters_do_not_matter() -> None:
    plain = shapes("torchvision:resnet50", num_classes=12)
    names = list(plain)
    random.Random(0).shuffle(names)
    expected = Architecture("torchvision", "resnet50", {"num_classes": 12})
    without = {name: plain[name] for name in names if not name.endswith("num_batches_tracked")}
    assert 0 < len(without) < len(plain)
    for prefix in ("", "module.", "model._orig_mod."):
        for state in ({name: plain[name] for name in names}, without):
            layout = Shapes({f"{prefix}{name}": shape for name, shape in state.items()})
            assert identify(layout).architecture == expected


def test_a_prefix_is_not_taken_off_too_far() -> None:
    """Without its classifier, everything of torchvision's MobileNetV2 begins with ``features.``, which is its own."""
    plain = {n: shape for n, shape in shapes("torchvision:mobilenet_v2").items() if not n.startswith("classifier.")}
    assert {name.partition(".")[0] for name in plain} == {"features"}
    layout = Shapes({f"module.{name}": shape for name, shape in plain.items()})
    assert architecture_of(layout) == "torchvision:mobilenet_v2 (no classifier)"


def test_timm_builds_without_a_classifier() -> None:
    layout = Shapes(shapes("timm:convnext_tiny", num_classes=0))
    found = identify(layout)
    assert found.architecture == Architecture("timm", "convnext_tiny", {"num_classes": 0})
    assert found.num_classes is None
    assert architecture_of(layout) == "timm:convnext_tiny (no classifier)"


def test_torchvision_is_preferred_where_timm_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Shapes(shapes("timm:resnet18", num_classes=1000))
    found = identify(layout)
    assert str(found.architecture) == "torchvision:resnet18"
    assert [str(one) for one in found.same] == ["timm:resnet18"]
    assert [str(one) for one in found.others] == ["timm:resnetblur18"]
    monkeypatch.setitem(sys.modules, "torchvision", None)
    found = identify(layout)
    assert str(found.architecture) == "timm:resnet18"
    monkeypatch.setitem(sys.modules, "timm", None)
    assert str(identify(layout).architecture) == "torchvision:resnet18"


def test_models_that_compute_differently_are_a_tie() -> None:
    """TensorFlow pads "same" on one side more than the other; no tensor shows it."""
    layout = Shapes(shapes("timm:tf_efficientnet_b0", num_classes=1000))
    with pytest.raises(AmbiguousArchitecture) as caught:
        identify(layout)
    assert {"timm:tf_efficientnet_b0", "timm:efficientnet_b0"} <= set(caught.value.fields["candidates"])
    assert "--arch" in (caught.value.hint or "")
    words = architecture_of(layout)
    assert words is not None
    assert "timm:tf_efficientnet_b0" in words
    assert words.endswith("(1000 classes)")


@pytest.mark.parametrize("text", ["torchvision:resnet18", "timm:convnext_tiny", "builtin:cifar_resnet18"])
def test_any_changed_shape_or_name_is_unknown(text: str) -> None:
    plain = shapes(text, num_classes=10)
    for name in random.Random(0).sample(sorted(plain), 12):
        if name.endswith("num_batches_tracked"):
            continue
        larger = {**plain, name: (*plain[name][:-1], plain[name][-1] + 1)}
        renamed = {(f"{name}_" if name == key else key): shape for key, shape in plain.items()}
        missing = {key: shape for key, shape in plain.items() if key != name}
        for layout in (larger, renamed, missing):
            with pytest.raises(UnknownArchitecture) as caught:
                identify(Shapes(layout))
            assert "--arch" in (caught.value.hint or "")
            assert architecture_of(Shapes(layout)) is None


def test_heads_that_disagree_are_unknown() -> None:
    plain = shapes("torchvision:resnet18", num_classes=10)
    with pytest.raises(UnknownArchitecture, match="no architecture") as caught:
        identify(Shapes({**plain, "fc.bias": (11,)}))
    assert "torchvision:resnet18" in (caught.value.hint or "")


def test_a_missing_classifier_is_named() -> None:
    plain = shapes("builtin:cifar_resnet18")
    headless = Shapes({name: shape for name, shape in plain.items() if not name.startswith("fc.")})
    with pytest.raises(UnknownArchitecture, match="builtin:cifar_resnet18 without the classifier"):
        identify(headless)
    assert architecture_of(headless) == "builtin:cifar_resnet18 (no classifier)"


def test_an_empty_file_is_unknown() -> None:
    with pytest.raises(UnknownArchitecture):
        identify(Shapes({}))
    assert architecture_of(Shapes({})) is None


def test_words() -> None:
    layout = Shapes(shapes("torchvision:resnet18", num_classes=7))
    assert architecture_of(layout) == "torchvision:resnet18 (7 classes)"


def test_recognising_imports_no_framework() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from sift_cli.models import architecture_of, identify, parse_architecture\n"
        "from sift_cli.models.fingerprints import table\n"
        "parse_architecture('timm:resnet18'), len(table().names)\n"
        "print(sorted({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_hashes_by_hand() -> None:
    """SHA-256 of sorted lines, its first 16 digits, from coreutils: ``printf 'a.b\\nc' | sha256sum``."""
    layout = {"c": (), "a.b": (5, 3), "a.num_batches_tracked": ()}
    assert hash_names(layout) == "811d9bb73df5f895"
    assert hash_shapes(layout, [("a.b", 0)]) == "fabac6ef1edac049"


def test_the_table_holds_a_layout_once_and_nothing_but_its_json() -> None:
    path = Path(sys.modules[table.__module__].__file__ or "").with_name("fingerprints.json")
    data = json.loads(path.read_bytes())
    assert table().to_json() == data
    keys = [(layout.shapes, layout.headless) for layout in table().layouts]
    assert len(keys) == len(set(keys))
    assert path.stat().st_size < 400_000
    assert set(data["versions"]) == {"timm", "torch", "torchvision"}


def test_a_model_of_ones_own_is_unknown_and_a_pickle_tells_its_class() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    layout = Shapes({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    with pytest.raises(UnknownArchitecture, match="no architecture that sift knows"):
        identify(layout)
    layout.module = model
    with pytest.raises(UnknownArchitecture) as caught:
        identify(layout)
    assert "--arch torch.nn.modules.container:Sequential" in (caught.value.hint or "")
