"""Sources of data, and which of their samples a step sees."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from sift_cli.errors import CheckpointError, Malformed, PlanError, SiftError, Unreadable
from sift_cli.training.recipes.batches import InTurn, Order, loaded
from sift_cli.training.recipes.data import Data, open_data
from sift_cli.training.recipes.data._arrays import Arrays, shifted_and_flipped
from sift_cli.training.recipes.data.text import Pieces
from sift_cli.training.recipes.keys import Named


def data(name: str, **options: object) -> Data:
    return open_data(Named(name, options))


# -- the order -------------------------------------------------------------------------------------------------------


class Numbers:
    """Samples that are their own numbers, and with what augmentation draws."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: np.ndarray, random: np.random.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = np.zeros(len(indices)) if random is None else random.random(len(indices))
        return torch.from_numpy(indices.astype(np.int64)), torch.from_numpy(drawn)


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    order = Order(Numbers(22), size=5, parts=1, seed=0)
    assert order.epoch == 4
    epochs = [torch.cat([order[4 * epoch + step, 0][0] for step in range(4)]).tolist() for epoch in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == 20
        assert set(epoch) <= set(range(22))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != torch.cat([Order(Numbers(22), 5, 1, seed=1)[step, 0][0] for step in range(4)]).tolist()


def test_parts_make_up_the_batch_and_draw_for_themselves() -> None:
    whole, parts = Order(Numbers(24), 12, 1, seed=3), Order(Numbers(24), 12, 3, seed=3)
    for step in (0, 1, 5):
        pieces = [parts[step, part] for part in range(3)]
        assert torch.equal(torch.cat([piece[0] for piece in pieces]), whole[step, 0][0])
        assert len({tuple(piece[1].tolist()) for piece in pieces}) == 3


def test_workers_make_no_difference() -> None:
    order = Order(Numbers(20), 4, 2, seed=3)
    keys = [(step, part) for step in range(6) for part in range(2)]
    one, two = (list(loaded(order, iter(keys), workers=workers, pinned=False)) for workers in (0, 2))
    assert len(one) == len(two) == 12
    assert all(torch.equal(a, b) for first, second in zip(one, two, strict=True) for a, b in zip(first, second))  # noqa: B905


def test_measured_in_turn_and_whole() -> None:
    samples = InTurn(Numbers(7), 3)
    batches = list(loaded(samples, iter(range(len(samples))), workers=0, pinned=False))
    assert torch.cat([batch[0] for batch in batches]).tolist() == list(range(7))
    assert not any(batch[1].any() for batch in batches)


@pytest.mark.parametrize(("size", "parts", "message"), [(6, 4, "4 equal parts"), (30, 1, "there are 20")])
def test_refused_batches(size: int, parts: int, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Order(Numbers(20), size, parts, 0)


class Broken(Numbers):
    def batch(self, indices: np.ndarray, random: np.random.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        raise Malformed("x.png", "its image", "cut off", hint="copy it again")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_the_same_sentence(workers: int) -> None:
    with pytest.raises(Malformed, match=r"x\.png is damaged at its image: cut off") as caught:
        next(loaded(Order(Broken(4), 2, 1, 0), iter([(0, 0)]), workers=workers, pinned=False))
    assert caught.value.hint == "copy it again"


# -- augmentation ----------------------------------------------------------------------------------------------------


def test_shifts_and_mirrors() -> None:
    """Each image is a window of itself with a border of zeros, or of that mirrored, and all of these occur."""
    images = torch.arange(1, 1 + 600 * 2 * 3 * 4, dtype=torch.float32).view(600, 2, 3, 4)
    moved = shifted_and_flipped(1)(images, np.random.default_rng(0))
    assert moved.shape == images.shape
    seen = set()
    for before, after in zip(images.numpy(), moved.numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (1, 1), (1, 1)))
        windows = {
            (down, right, mirrored): padded[:, down : down + 3, right : right + 4][:, :, :: -1 if mirrored else 1]
            for down in range(3)
            for right in range(3)
            for mirrored in (False, True)
        }
        (found,) = [key for key, window in windows.items() if np.array_equal(window, after)]
        seen.add(found)
    assert len(seen) == 18


def test_arrays_are_normalised_by_channel_after_augmentation() -> None:
    split = Arrays(
        torch.tensor([[[[0, 255]], [[10, 20]]]], dtype=torch.uint8), torch.tensor([7]), (5.0, 10.0), (2.0, 5.0)
    )
    inputs, targets = split.batch(np.array([0, 0]), None)
    assert inputs.tolist() == [[[[-2.5, 125.0]], [[0.0, 2.0]]]] * 2
    assert targets.tolist() == [7, 7]


# -- sources ---------------------------------------------------------------------------------------------------------


def test_mnist1d() -> None:
    published = pytest.importorskip("mnist1d.data")
    state = random.getstate(), np.random.get_state()[1].copy()
    made = data("mnist1d", samples=200, seed=42)
    assert random.getstate() == state[0]
    assert np.array_equal(np.random.get_state()[1], state[1])
    settings = published.get_dataset_args()
    settings.num_samples = 200
    expected = published.make_dataset(settings)
    inputs, targets = made.train.batch(np.arange(160), None)
    assert np.array_equal(inputs.numpy()[:, 0], expected["x"].astype(np.float32))
    assert targets.tolist() == expected["y"].tolist()
    assert (len(made.validation), made.shape, made.classes) == (40, (1, 40), 10)


def test_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    made = data("digits", validation=0.25, size=16, channels=3)
    assert (len(made.train), len(made.validation)) == (1348, 449)
    images, labels = made.train.batch(np.arange(5), None)
    assert images.shape == (5, 3, 16, 16)
    assert torch.equal(images[:, 0], images[:, 2])
    plain = data("digits", validation=0.25)
    both = [split.batch(np.arange(len(split)), None) for split in (plain.train, plain.validation)]
    pixels, targets = (torch.cat(parts) for parts in zip(*both, strict=True))
    known, expected = datasets.load_digits(return_X_y=True)
    scaled = (known / 16 - (known / 16).mean()) / (known / 16).std(ddof=1)
    # Each image once: rows in lexicographic order are those of the package.
    rows = np.c_[pixels.reshape(-1, 64).numpy(), targets.numpy()]
    wanted = np.c_[scaled, expected]
    rows, wanted = (one[np.lexsort(one.round(3).T)] for one in (rows, wanted))
    assert np.abs(rows - wanted).max() < 1e-5
    assert labels.dtype == torch.int64


def cifar(folder: Path, labels: int) -> dict[str, np.ndarray]:
    names = (
        ["train.bin", "test.bin"] if labels == 2 else [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    )
    written = {}
    for seed, name in enumerate(names):
        records = np.random.default_rng(seed).integers(0, 256, (4, labels + 3072), dtype=np.uint8)
        records[:, :labels] %= 10
        (folder / name).write_bytes(records.tobytes())
        written[name] = records
    return written


@pytest.mark.parametrize(("labels", "train", "classes"), [(1, 20, 10), (2, 4, 100)])
def test_cifar(tmp_path: Path, labels: int, train: int, classes: int) -> None:
    written = cifar(tmp_path, labels)
    made = data("cifar", path=str(tmp_path))
    assert (len(made.train), len(made.validation), made.classes) == (train, 4, classes)
    images, targets = made.validation.batch(np.arange(4), None)
    records = written["test.bin" if labels == 2 else "test_batch.bin"]
    assert targets.tolist() == records[:, labels - 1].tolist()
    mean, std = ((0.5071, 0.2673), (0.4914, 0.2470))[labels == 1]
    red = records[2, labels : labels + 1024].reshape(32, 32) / 255  # the first 1024 bytes, row by row
    assert np.allclose(images[2, 0].numpy(), (red - mean) / std, atol=1e-5)
    first, again = (made.train.batch(np.arange(4), np.random.default_rng(1))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, made.train.batch(np.arange(4), None)[0])


def test_images(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    for part in ("train", "val"):
        for label, colour in enumerate(((255, 0, 0), (0, 0, 255))):
            folder = tmp_path / part / f"class{label}"
            folder.mkdir(parents=True)
            pil.new("RGB", (40, 20), colour).save(folder / "a.png")
            pil.new("L", (20, 30), 255 * label).save(folder / "b.png")
            (folder / "notes.txt").write_text("no image")
    made = data("images", path=str(tmp_path), size=8, shorter=[10, 12], evaluated=10)
    assert (len(made.train), made.classes, made.shape) == (4, 2, (3, 8, 8))
    images, targets = made.train.batch(np.arange(4), np.random.default_rng(0))
    assert targets.tolist() == [0, 0, 1, 1]
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    red, white = torch.tensor([1.0, 0, 0]).view(3, 1, 1), torch.ones(3, 1, 1)
    for image, colour in ((images[0], red), (images[3], white)):
        assert torch.allclose(image, ((colour - mean) / std).expand(3, 8, 8))
    (tmp_path / "train" / "class0" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(Malformed, match=r"a\.png is damaged"):
        made.train.batch(np.arange(1), None)


def test_text_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(bytes(range(100, 150)))
    (tmp_path / "a.txt").write_bytes(bytes(range(50)))
    (tmp_path / "c.md").write_bytes(b"not this")
    made = data("text", path=str(tmp_path), length=8, share=0.2)
    assert (made.classes, made.shape, made.task) == (256, (8,), "language")
    assert (len(made.train), len(made.validation)) == (79 // 8, 19 // 8)
    inputs, targets = made.train.batch(np.array([0, 6]), None)
    assert inputs.tolist() == [list(range(8)), [48, 49, *range(100, 106)]]
    assert targets.tolist() == [list(range(1, 9)), [49, *range(100, 107)]]
    assert made.validation.batch(np.array([1]), None)[0].tolist() == [list(range(138, 146))]
    other = data("text", path=str(tmp_path / "a.txt"), validation=str(tmp_path / "b.txt"), length=7)
    assert (len(other.train), len(other.validation)) == (7, 7)


def test_text_in_tokens(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    vocabulary = {"<unk>": 0, "a": 1, "bb": 2, "c": 3}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "a.txt").write_text("a bb c d " * 10)
    made = data("text", path=str(tmp_path), length=4, share=0.5, tokenizer=str(tmp_path))
    assert made.classes == 4
    assert made.train.batch(np.array([1]), None)[1].tolist() == [[2, 3, 0, 1]]
    (tmp_path / "a.txt").write_bytes(b"a bb \xff")
    with pytest.raises(Malformed, match="byte 5"):
        data("text", path=str(tmp_path), tokenizer=str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(Malformed, match=r"tokenizer\.json"):
        data("text", path=str(tmp_path), tokenizer=str(tmp_path))


def test_pieces_too_short_to_have_a_next_token() -> None:
    assert [len(Pieces(np.zeros(count, np.uint8), 4)) for count in (0, 1, 4, 5, 8, 9)] == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar", {"path": "{}"}, "no CIFAR"),
        ("cifar", {}, "has no 'path'"),
        ("cifar", {"path": "{}", "augmnt": True}, "'augmnt'"),
        ("cifars", {}, "no data 'cifars'"),
        ("images", {"path": "{}"}, "cannot read"),
        ("images", {"path": "{}", "size": 300}, "data.size"),
        ("images", {"path": "{}", "shorter": 300}, "data.shorter"),
        ("text", {"path": "{}/none"}, "no such file"),
        ("text", {"path": "{}"}, "none of its files matches"),
        ("text", {"path": "{}", "files": ""}, "data.files"),
        ("text", {"path": "{}", "tokenizer": "{}"}, "no such file"),
        ("text", {"path": "{}", "length": 0}, "data.length"),
        ("digits", {"validation": 1}, "data.validation"),
        ("mnist1d", {"samples": 1}, "data.samples"),
    ],
)
def test_refused(tmp_path: Path, name: str, options: dict[str, object], message: str) -> None:
    if name in ("digits", "mnist1d"):
        pytest.importorskip({"digits": "sklearn", "mnist1d": "mnist1d"}[name])
    given = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises((CheckpointError, PlanError), match=message):
        data(name, **given)


def test_hostile_files(tmp_path: Path) -> None:
    cifar(tmp_path, 2)
    whole = (tmp_path / "train.bin").read_bytes()
    for raw, message in (
        (whole[:-1], "at byte 9222: a record is 3074 bytes"),
        (b"", "a record is 3074 bytes"),
        (whole[:3075] + b"\xff" + whole[3076:], "record 1: its label is 255"),
    ):
        (tmp_path / "train.bin").write_bytes(raw)
        with pytest.raises(Malformed, match=message):
            data("cifar", path=str(tmp_path))
    (tmp_path / "train.bin").write_bytes(whole)
    (tmp_path / "test.bin").unlink()
    with pytest.raises(Unreadable, match=r"test\.bin"):
        data("cifar", path=str(tmp_path))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(SiftError, match="nothing to train on"):
        data("text", path=str(tmp_path))
    (tmp_path / "train" / "x").mkdir(parents=True)
    (tmp_path / "val" / "y").mkdir(parents=True)
    with pytest.raises(Unreadable, match="'x' is not both"):
        data("images", path=str(tmp_path))
