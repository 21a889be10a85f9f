"""Folders whose files are links, or not the files that they are said to be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from attacks.promise import keep
from attacks.seeds import SEEDS
from safetensors.numpy import save_file

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.folder import copy_companions, digest
from sift_cli.errors import CheckpointError, Malformed
from sift_cli.models.loading import configured_architecture

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A valid folder outside of the one that is opened."""
    for name in ("sharded", "masks"):
        SEEDS["folder"][name](tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "name"),
    [("sharded", INDEX), ("sharded", SHARDS[1]), ("masks", "model.safetensors"), ("masks", "sift.safetensors")],
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_out_of_the_folder_is_not_followed(folder: str, name: str, relative: bool, elsewhere: Path) -> None:
    path = elsewhere / folder / name
    path.rename(elsewhere / "moved")
    path.symlink_to("../moved" if relative else elsewhere / "moved")
    error = keep(elsewhere / folder)
    assert isinstance(error, Malformed)
    assert f"{folder} is damaged at {name}: it is a link to a file outside of the folder" in str(error)
    assert error.hint == "put a copy of that file there"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_what_lies_beside_the_weights_is_not_followed_either(name: str, elsewhere: Path) -> None:
    """A converted folder would otherwise have a copy of any file that its source had a link to."""
    folder = elsewhere / "masks"
    (elsewhere / "secret").write_text('{"model_type": "gpt2"}')
    (folder / name).symlink_to("../secret")
    (elsewhere / "copy").mkdir()
    with pytest.raises(Malformed, match="a link to a file outside of the folder"):
        copy_companions(folder, elsewhere / "copy", ("config.json",))
    assert not any((elsewhere / "copy").iterdir())
    if name == "config.json":
        for read in (digest, configured_architecture):
            with pytest.raises(Malformed, match="a link to a file outside of the folder"):
                read(folder)


def test_a_link_within_the_folder_is_followed(elsewhere: Path) -> None:
    shard = elsewhere / "sharded" / SHARDS[0]
    shard.rename(shard.with_name("kept"))
    shard.symlink_to("kept")
    assert keep(elsewhere / "sharded") is None


def test_a_folder_that_is_a_link_is_where_it_leads(elsewhere: Path) -> None:
    (elsewhere / "link").symlink_to("sharded")
    assert keep(elsewhere / "link") is None


def test_the_cache_of_huggingface_hub(tmp_path: Path) -> None:
    """Its files are links two folders up, to where every version of a file is kept once."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "5f2c"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({"w": np.ones(2, np.float32)}, blobs / "9d1e")
    (snapshot / "model.safetensors").symlink_to("../../blobs/9d1e")
    assert keep(snapshot, folder=tmp_path / "models--a--b") is None
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../../blobs/9d1e")
    (tmp_path / "blobs").symlink_to(blobs)
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "secret")
    for target in ("../../../secret", "../../blobs/../../secret"):
        (snapshot / "model.safetensors").unlink()
        (snapshot / "model.safetensors").symlink_to(target)
        assert "outside of the folder" in str(keep(snapshot, folder=tmp_path / "models--a--b"))


@pytest.mark.parametrize("name", [INDEX, SHARDS[0]])
def test_a_link_to_itself(name: str, elsewhere: Path) -> None:
    path = elsewhere / "sharded" / name
    path.unlink()
    path.symlink_to(name)
    assert isinstance(keep(elsewhere / "sharded"), CheckpointError)


def index_of(shard: object) -> Callable[[Path], object]:
    return lambda folder: (folder / INDEX).write_text(json.dumps({"weight_map": {"w": shard}}))


def pipe(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


LIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "itself": (index_of(INDEX), "is no file of tensors"),
    "another index": (index_of("pytorch_model.bin.index.json"), "is no file of tensors"),
    "the folder": (index_of("."), "not the name of a file beside it"),
    "the folder above": (index_of(".."), "not the name of a file beside it"),
    "a folder": (lambda folder: ((folder / "sub").mkdir(), index_of("sub")(folder)), "is no file of tensors"),
    "a path": (index_of("../secret"), "not the name of a file beside it"),
    "an absolute path": (index_of("/etc/passwd"), "not the name of a file beside it"),
    "a path of Windows": (index_of("..\\secret"), "not the name of a file beside it"),
    "a name with a zero": (index_of("a\0b"), "not the name of a file beside it"),
    "a name of 300 letters": (index_of("x" * 300), "x" * 300),
    "a number": (index_of(1), "not the name of a file beside it"),
    "nothing": (index_of(""), "not the name of a file beside it"),
    "a missing file": (index_of("missing"), "there is no such file"),
    "a file of JSON": (
        lambda folder: ((folder / "x").write_text("{}"), index_of("x")(folder)),
        "not a checkpoint sift",
    ),
    "a pipe": (pipe(SHARDS[0]), "it is not a regular file"),
    "an index that is a pipe": (pipe(INDEX), "without model.safetensors"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_shard_that_is_none(lie: str, elsewhere: Path) -> None:
    make, why = LIES[lie]
    make(elsewhere / "sharded")
    error = keep(elsewhere / "sharded")
    assert isinstance(error, CheckpointError)
    assert why in str(error)


def test_two_names_of_one_shard_are_opened_once(elsewhere: Path) -> None:
    """10,000 tensors in one file take one file that is open, and not 10,000."""
    folder = elsewhere / "sharded"
    save_file({f"w{n}": np.empty(0, np.int8) for n in range(10_000)}, folder / "one")
    (folder / INDEX).write_text(json.dumps({"weight_map": {f"w{n}": "one" for n in range(10_000)}}))
    before = len(os.listdir("/proc/self/fd"))
    with open_checkpoint(folder) as checkpoint:
        assert len(checkpoint.tensors) == 10_000
        assert len(os.listdir("/proc/self/fd")) == before + 1
