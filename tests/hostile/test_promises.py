"""Every reader's files, damaged in every way: what ``docs/security.md`` promises of any file holds for each of them."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacks import promise
from attacks.mutations import MUTATIONS, flip, packed, unpacked
from attacks.promise import BrokenPromise, keep
from attacks.seeds import SEEDS

from sift_cli.errors import CheckpointError
from sift_cli.registry import names

CASES = [(reader, seed) for reader, seeds in SEEDS.items() for seed in seeds]
every_seed = pytest.mark.parametrize(("reader", "seed"), CASES, ids=[" ".join(case) for case in CASES])
#: Files up to this size are cut at every byte.
SMALL = 1200


class Seed:
    """A valid file or folder at ``path``, as bytes, and the means to put others in its place."""

    def __init__(self, path: Path, write: Callable[[Path], None]) -> None:
        path.parent.mkdir()
        (path.parent.parent / "secret").write_bytes(b"secret")
        write(path)
        self.path, self.is_folder = path, path.is_dir()
        self.data = (
            packed({one.name: one.read_bytes() for one in path.iterdir()}) if self.is_folder else path.read_bytes()
        )

    def replace(self, data: bytes) -> None:
        if not self.is_folder:
            self.path.write_bytes(data)
            return
        shutil.rmtree(self.path)
        self.path.mkdir()
        for name, content in unpacked(data).items():
            if name.strip(".") and "/" not in name and name.isprintable() and len(name.encode()) < 256:
                (self.path / name).write_bytes(content)

    def cuts(self) -> Iterator[bytes]:
        """The file cut at every byte, or a large one at some; a folder with one of its files cut."""
        files = unpacked(self.data) if self.is_folder else {"": self.data}
        for name, data in files.items():
            for cut in range(len(data)):
                if len(data) <= SMALL or cut < 100 or cut > len(data) - 150 or cut % 29 == 0:
                    yield packed({**files, name: data[:cut]}) if self.is_folder else data[:cut]


@pytest.fixture
def file(reader: str, seed: str, tmp_path: Path) -> Seed:
    return Seed(tmp_path / "inside" / "model", SEEDS[reader][seed])


def test_every_reader_has_seeds_and_a_mutation() -> None:
    assert set(names("sift_cli.checkpoint.readers")) | {"folder", "compressed_tensors"} == set(SEEDS) == set(MUTATIONS)


@every_seed
def test_the_seeds_are_valid(reader: str, seed: str, file: Seed) -> None:
    assert keep(file.path) is None


@every_seed
def test_cut_anywhere(reader: str, seed: str, file: Seed) -> None:
    for data in file.cuts():
        file.replace(data)
        # An ONNX model that ends between two fields of its own is one, without its metadata.
        assert isinstance(keep(file.path), CheckpointError) or reader == "onnx", len(data)


@every_seed
def test_damaged_bytes(reader: str, seed: str, file: Seed) -> None:
    rng = random.Random(seed)
    refused = 0
    for _ in range(100):
        file.replace(flip(rng)(file.data))
        refused += isinstance(keep(file.path), CheckpointError)
    assert refused


@every_seed
def test_damage_that_knows_the_container(reader: str, seed: str, file: Seed) -> None:
    rng = random.Random(seed)
    refused = 0
    for _ in range(100):
        data = file.data
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = MUTATIONS[reader](data, rng, flip(rng))
        file.replace(data)
        refused += isinstance(keep(file.path), CheckpointError)
    assert refused


class Calls:
    def __reduce__(self) -> tuple:
        return os.getpid, ()


def grow() -> None:
    bytearray(promise.SLACK + 4 * 2**30)  # more than a process that ran other tests has left over


def spin() -> None:
    while True:
        time.process_time()


@pytest.mark.parametrize(
    ("breaks", "why"),
    [
        (lambda path: (path.parent.parent / "secret").read_bytes(), "secret' is opened with 'r'"),
        (lambda path: os.open("/etc/passwd", os.O_RDONLY), "'/etc/passwd' is opened"),
        (lambda path: (path.parent / "link").read_bytes(), "secret' is opened"),
        (lambda path: path.write_bytes(b""), "is opened with 'w'"),
        (lambda path: path.unlink(), "os.remove"),
        (lambda path: pickle.loads(pickle.dumps(Calls())), "pickle.find_class"),
        (lambda path: os.system("true"), "os.system"),
        (lambda path: grow(), "takes more than 209,715,"),
        (lambda path: spin(), "takes more than 0.2 s"),
    ],
)
def test_a_broken_promise_is_noticed(
    breaks: Callable[[Path], object], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promise, "SECONDS", 0.2)
    path = tmp_path / "inside" / "model"
    path.parent.mkdir()
    path.write_bytes(b"12")
    (tmp_path / "secret").write_bytes(b"secret")
    (path.parent / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(BrokenPromise, match=why):
        keep(path, look=breaks)
