"""Recipes: what is in them, what is refused, and the learning rate they ask for."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sift_cli.errors import PlanError, SiftError, Unreadable
from sift_cli.training.recipes.keys import Named
from sift_cli.training.recipes.rates import rate
from sift_cli.training.recipes.recipe import Recipe, about, differing, load, shipped

MINIMAL = "model: m\ndata: d\noptimizer: {name: sgd, lr: 0.1}\nepochs: 3\nbatch: 8\n"


def recipe(tmp_path: Path, more: str = "", *overrides: str) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL + more)
    return load(path, overrides)


def test_names_alone_and_with_arguments(tmp_path: Path) -> None:
    read = recipe(tmp_path, "rule: rigl\ntransform: {name: wide, sparsity: 0.9}\n")
    assert (read.model, read.rule) == (Named("m"), Named("rigl"))
    assert read.transform == Named("wide", {"sparsity": 0.9})
    assert read.optimizer == Named("sgd", {"lr": 0.1})


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    read = recipe(tmp_path, "clip: 1e-1\n", "optimizer.lr=6e-4", "optimizer.betas=[9e-1, 0.999]")
    assert read.clip == 0.1
    assert read.optimizer.arguments == {"lr": 6e-4, "betas": [0.9, 0.999]}


def test_overrides(tmp_path: Path) -> None:
    read = recipe(
        tmp_path, "rule: rigl\n", "rule.frequency=5", "data={name: text, path: x}", "data.files=*.py", "seed=4"
    )
    assert read.rule == Named("rigl", {"frequency": 5})
    assert read.data == Named("text", {"path": "x", "files": "*.py"})
    assert read.seed == 4
    assert recipe(tmp_path, "rule: rigl\n", "rule=null").rule is None


@pytest.mark.parametrize(
    ("more", "overrides", "message", "hint"),
    [
        ("optimzer: sgd\n", (), "'optimzer'", "'optimizer'"),
        ("", ("label_smothing=.1",), "'label_smothing'", "'label_smoothing'"),
        ("", ("batch=many",), "batch is 'many'", None),
        ("", ("batch=-1",), "batch is -1", None),
        ("", ("batch=0",), "batch is 0", None),
        ("", ("epochs=null",), "either 'epochs' or 'steps'", None),
        ("steps: 4\n", (), "either 'epochs' or 'steps'", None),
        ("rule: set\nsparsity_config: x\n", (), "either 'rule' or 'sparsity_config'", None),
        ("precision: fp8\n", (), "precision is 'fp8'", None),
        ("ema: 1\n", (), "ema is 1", None),
        ("transform: 3\n", (), "transform is 3", None),
        ("transform: {sparsity: 1}\n", (), "transform is a mapping", None),
        ("tensorboard: 1\n", (), "tensorboard is 1, and not true or false", None),
        ("epochs: 4\n", (), "twice", None),
        ("x: [\n", (), "no YAML", None),
        ("", ("batch",), "not KEY=VALUE", "optimizer.lr=0.1"),
        ("", ("model=null",), "model is empty", None),
    ],
)
def test_refused(tmp_path: Path, more: str, overrides: tuple[str, ...], message: str, hint: str | None) -> None:
    with pytest.raises(SiftError) as caught:
        recipe(tmp_path, more, *overrides)
    assert message in caught.value.message
    assert caught.value.exit_code == 5
    assert hint is None or hint in str(caught.value.hint)


def test_a_missing_key_and_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: m\n")
    with pytest.raises(PlanError, match=r"has no '(batch|data|optimizer)'"):
        load(path)
    with pytest.raises(Unreadable) as caught:
        load("mnist1d-cmn")
    assert caught.value.hint == "did you mean mnist1d-cnn?"


def test_written_and_read_again_it_is_the_same(tmp_path: Path) -> None:
    import yaml

    for name in shipped():
        first = load(name, ["ema=0.99", "seed=3"])
        path = tmp_path / "again.yaml"
        path.write_text(yaml.safe_dump(first.to_json()))
        assert load(path) == first


def test_where_two_differ() -> None:
    assert differing({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}) is None
    assert differing({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}) == "b.c"
    assert differing({"a": 1}, {"a": 1, "d": None, "e": 1}) == "e"


def test_what_the_paper_says() -> None:
    """Sparse-IFT, appendix B.2 and C.2.2, by hand."""
    assert {"cifar100-resnet18", "imagenet-resnet18", "gpt-small", "gpt-bytes", "mnist1d-cnn"} <= set(shipped())
    cifar = load("cifar100-resnet18")
    assert (cifar.epochs, cifar.batch, cifar.decay_norms_and_biases) == (200, 128, False)
    assert cifar.optimizer == Named("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4})
    assert cifar.rule == Named("rigl", {"frequency": 100, "drop_fraction": 0.3, "stop": 0.75})
    multiples = rate(cifar.schedule, unit=10, steps=2000)
    assert [multiples(step) for step in (0, 599, 600, 1200, 1600)] == pytest.approx([1, 1, 1 / 5, 1 / 25, 1 / 125])
    imagenet = load("imagenet-resnet18")
    assert (imagenet.epochs, imagenet.label_smoothing, imagenet.precision) == (90, 0.1, "fp16")
    assert imagenet.optimizer == Named("sgd", {"lr": 0.256, "momentum": 0.875, "weight_decay": 2**-15})
    gpt = load("gpt-small")
    assert gpt.steps == int(2.5e9 / (256 * 2048))
    assert gpt.schedule.arguments == {"warmup": round(375e6 / (256 * 2048)), "final": 0.1}
    assert gpt.optimizer == Named("adamw", {"lr": 6e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1})
    assert gpt.clip == 1
    assert all(about(name) and "\n" not in about(name) for name in shipped())


def test_rates_in_closed_form() -> None:
    cosine = rate(Named("cosine", {"warmup": 2, "final": 0.1}), unit=5, steps=50)
    assert [cosine(step) for step in range(10)] == pytest.approx([(step + 1) / 11 for step in range(10)])
    for step in range(10, 50):
        assert cosine(step) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * (step - 10) / 40)))
    linear = rate(Named("linear"), unit=1, steps=4)
    assert [linear(step) for step in range(4)] == [1, 0.75, 0.5, 0.25]
    assert {rate(Named("constant"), unit=7, steps=4)(step) for step in range(4)} == {1}
    steps = rate(Named("steps", {"points": 2, "factor": 0.5}), unit=3, steps=9)
    assert [steps(step) for step in (5, 6, 8)] == [1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (Named("cosin"), "no schedule 'cosin'"),
        (Named("cosine", {"warmup": 10}), "schedule.warmup is 10"),
        (Named("cosine", {"fianl": 0}), "'fianl'"),
        (Named("steps"), "'points'"),
    ],
)
def test_refused_rates(section: Named, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        rate(section, unit=1, steps=10)
