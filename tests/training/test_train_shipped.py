"""The recipes that come with sift: each of them, at a size for a test, is trained for two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sift_cli.models import load as load_model
from sift_cli.surgery import TransformedModel, packed_masks_of
from sift_cli.training.recipes.data import Split, open_data
from sift_cli.training.recipes.models import architecture, example, transformed
from sift_cli.training.recipes.recipe import load, shipped
from sift_cli.training.recipes.runs import RunFolder

pytest.importorskip("accelerate")
from sift_cli.training.recipes.loop import Training, accelerator

SHORT = ["epochs=null", "steps=2", "batch=4", "evaluate=2"]
MOVING = [*SHORT, "rule.frequency=1", "rule.stop=1"]
THIN_RESNET = [*MOVING, "model.width=4", "schedule.points=[1]"]
GPT = [*SHORT, "schedule.warmup=1", "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.n_positions=16",
       "data.length=16"]  # fmt: skip
SMALL = {
    "cifar100-resnet18": THIN_RESNET,
    "digits-resnet18": THIN_RESNET,
    "gpt-bytes": GPT,
    "gpt-small": [*GPT, "accumulate=2"],
    "imagenet-resnet18": [*MOVING, "workers=1", "transform.sparsity=0.25", "data.size=32", "data.shorter=[32, 40]",
                          "data.evaluated=32", "precision=bf16"],  # float16 skips steps until it has found a scale
    "mnist1d-cnn": [*MOVING, "data.samples=50", "model.width=4"],
}  # fmt: skip
NEEDED = {
    "digits-resnet18": ["sklearn"], "gpt-bytes": ["transformers"], "gpt-small": ["transformers"],
    "imagenet-resnet18": ["PIL.Image"], "mnist1d-cnn": ["mnist1d"],
}  # fmt: skip
random = np.random.default_rng(0)


def cifar(folder: Path) -> list[str]:
    for name, count in (("train.bin", 50_000), ("test.bin", 10_000)):
        (folder / name).write_bytes(bytes(count * (2 + 3 * 32 * 32)))
    return [f"data.path={folder}"]


def images(folder: Path) -> list[str]:
    from PIL import Image

    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for index in range(2):
                pixels = random.integers(0, 256, (36, 48 + index, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index}.jpg")
    return [f"data.path={folder}"]


def text(folder: Path) -> list[str]:
    (folder / "text.txt").write_bytes(random.integers(97, 123, 2000, dtype=np.uint8).tobytes())
    return [f"data.path={folder}"]


def text_and_tokenizer(folder: Path) -> list[str]:
    import tokenizers

    letters = {chr(97 + index): index for index in range(26)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    tokenizer.save(str(folder / "tokenizer.json"))
    return [*text(folder), f"data.tokenizer={folder}"]


DATA: dict[str, Callable[[Path], list[str]]] = {
    "cifar100-resnet18": cifar,
    "imagenet-resnet18": images,
    "gpt-bytes": text,
    "gpt-small": text_and_tokenizer,
}


@dataclass(frozen=True)
class First:
    """The first few samples; all 10,000 of CIFAR take longer than two steps."""

    split: Split

    def __len__(self) -> int:
        return 4

    def batch(self, indices: np.ndarray, random: np.random.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        return self.split.batch(indices, random)


@pytest.fixture(autouse=True)
def another_precision() -> Iterator[None]:
    """accelerate allows one in a process."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def trained(name: str, folder: Path, *more: str) -> tuple[TransformedModel, nn.Module, list[dict[str, Any]]]:
    """The model before and after, and the log."""
    recipe = load(name, [*SMALL[name], *DATA.get(name, lambda _: [])(folder), *more])
    data = open_data(recipe.data)
    data = replace(data, validation=First(data.validation))
    named = architecture(recipe.model, data)
    start = transformed(load_model(named, seed=0, **example(named, data)), recipe.transform, 0)
    finished: list[nn.Module] = []
    training = Training(
        recipe, start, data, RunFolder(folder / "run", recipe, "sparse"), accelerator(recipe.precision),
        lambda module, path: finished.append(module), lambda progress: None,
    )  # fmt: skip
    log = training.run(resume=False, force=False)
    return start, finished[-1], log


def test_there_are_no_others() -> None:
    assert set(shipped()) == SMALL.keys()


@pytest.mark.parametrize("name", sorted(SMALL))
def test_two_steps(name: str, tmp_path: Path) -> None:
    for needed in NEEDED.get(name, ()):
        pytest.importorskip(needed)
    start, module, (row,) = trained(name, tmp_path)
    before, after = packed_masks_of(start.module), packed_masks_of(module)
    assert before.keys() == after.keys() == start.plan.masked.keys()
    for key, mask in after.items():
        weight = module.get_parameter(key)
        assert not weight[~mask.kept()].any(), key
        assert mask.kept().count_nonzero() == start.plan.masked[key], key
    for (key, old), new in zip(start.module.named_parameters(), module.parameters(), strict=True):
        assert not torch.equal(old, new), key
    moved = [key for key, mask in after.items() if not torch.equal(mask.bits, before[key].bits)]
    assert bool(moved) == (not name.startswith("gpt"))  # of which the masks are fixed
    assert row["step"] == 2
    assert 0 < row["train_loss"] < 20


def test_tensorboard_has_the_numbers_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("mnist1d")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, _, rows = trained("mnist1d-cnn", tmp_path, "tensorboard=true", "evaluate=1")
    board = events.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    keys = rows[0].keys() - {"step"}
    assert set(board.Tags()["scalars"]) == keys
    for key in keys:
        written = {one.step: one.value for one in board.Scalars(key)}
        assert written == pytest.approx({row["step"]: row[key] for row in rows}, rel=1e-6), key
