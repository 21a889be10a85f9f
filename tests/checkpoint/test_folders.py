from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinyhf
import torch
from safetensors.numpy import save_file

from sift_cli.checkpoint import mask_file, open_checkpoint
from sift_cli.checkpoint.folder import MASKS, weight_files
from sift_cli.core.masks import Mask
from sift_cli.errors import CheckpointError, Malformed, UnsafePickle
from sift_cli.models import load

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.bias": np.ones(5, np.float32)}
SHARDS = {"a.weight": "model-00001-of-00002.safetensors", "b.bias": "model-00002-of-00002.safetensors"}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    for name, shard in SHARDS.items():
        save_file({name: ARRAYS[name]}, tmp_path / shard)
    index(tmp_path, SHARDS)
    return tmp_path


def index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_one_checkpoint(sharded: Path) -> None:
    with open_checkpoint(sharded) as checkpoint:
        assert checkpoint.format == "folder"
        assert list(checkpoint.tensors) == list(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(checkpoint.read(name), array)
            assert checkpoint.tensors[name].shape == array.shape
            assert checkpoint.mask(name) is None
    assert [path.name for path in weight_files(sharded)] == ["model.safetensors.index.json", *SHARDS.values()]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_one_file(tmp_path: Path, name: str) -> None:
    if name.endswith(".bin"):
        torch.save({key: torch.from_numpy(array) for key, array in ARRAYS.items()}, tmp_path / name)
    else:
        save_file(ARRAYS, tmp_path / name)
    with open_checkpoint(tmp_path) as checkpoint:
        assert all(np.array_equal(checkpoint.read(key), array) for key, array in ARRAYS.items())


def test_safetensors_come_before_a_pickle(sharded: Path) -> None:
    (sharded / "pytorch_model.bin").write_bytes(b"\x80 no pickle at all")
    with open_checkpoint(sharded) as checkpoint:
        assert set(checkpoint.tensors) == set(ARRAYS)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("exploded",)


def test_a_pickle_in_a_folder_is_not_run(tmp_path: Path) -> None:
    torch.save({"w": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsafePickle):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "shard",
    ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", ".", "folder", "a\\b", 7, None,
     "model.safetensors.index.json"],
)  # fmt: skip
def test_a_shard_lies_in_the_folder(sharded: Path, shard: Any) -> None:
    (sharded.parent / "outside.safetensors").write_bytes((sharded / SHARDS["a.weight"]).read_bytes())
    (sharded / "folder").mkdir()
    index(sharded, {**SHARDS, "a.weight": shard})
    with pytest.raises(Malformed, match="its shard"):
        open_checkpoint(sharded)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / SHARDS["b.bias"]).unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: there is no such file"):
        open_checkpoint(sharded)


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    index(sharded, {**SHARDS, "c.weight": SHARDS["a.weight"]})
    with pytest.raises(Malformed, match=r"tensor 'c\.weight'"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": 7}', '{"weight_map": {}}', '{"weight_map": {"a": "x", "a": "y"}}']
)
def test_an_index_that_is_none(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError):
        open_checkpoint(sharded)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"without model\.safetensors or pytorch_model\.bin"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("sharding", ["none", "shards", "bin"])
def test_a_model_comes_from_any_of_them(tmp_path: Path, sharding: str) -> None:
    model = tinyhf.make("gpt2")
    tinyhf.folder(tmp_path, "gpt2", **({"max_shard_size": "30KB"} if sharding == "shards" else {}))
    if sharding == "shards":
        assert len(weight_files(tmp_path)) > 2
    if sharding == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.module(**loaded.inputs).logits, model(**loaded.inputs).logits)  # type: ignore[arg-type]


def masks() -> dict[str, Mask]:
    kept = np.array([[True, False, True], [False, False, True]])
    return {"a.weight": Mask.from_bool(kept, rule="random", seed=3)}


def test_masks_beside_the_weights(sharded: Path) -> None:
    mask_file.write(sharded / MASKS, masks(), {"about": "x"})
    with open_checkpoint(sharded) as checkpoint:
        mask = checkpoint.mask("a.weight")
        assert mask is not None
        assert (mask.shape, mask.bits.tolist(), mask.rule, mask.seed) == ((2, 3), [0b100101], "random", 3)
        assert checkpoint.tensors["a.weight"].nonzero == 3
        assert checkpoint.mask("b.bias") is None
        assert checkpoint.metadata["about"] == "x"


def test_masks_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        mask_file.write(tmp_path / name, masks(), {"about": "x"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_mask_of_another_shape(sharded: Path) -> None:
    mask_file.write(sharded / MASKS, {"b.bias": masks()["a.weight"]}, {})
    with pytest.raises(Malformed, match=r"the mask of 'b\.bias'"):
        open_checkpoint(sharded)


ABOUT = {"a.weight": {"shape": [2, 3], "rule": "random", "seed": 3}}


@pytest.mark.parametrize(
    ("about", "bits"),
    [
        ({}, [0b100101]),
        ({"other": ABOUT["a.weight"]}, [0b100101]),
        ({"a.weight": {"shape": [2, 30], "rule": "random", "seed": 3}}, [0b100101]),
        ({"a.weight": {"shape": [2, -3], "rule": "random", "seed": 3}}, [0b100101]),
        ({"a.weight": {"shape": "23", "rule": "random", "seed": 3}}, [0b100101]),
        ({"a.weight": {"shape": [2, 3], "rule": 7, "seed": 3}}, [0b100101]),
        ({"a.weight": {"shape": [2, 3], "rule": "random", "seed": "x"}}, [0b100101]),
        ({"a.weight": {"shape": [2, 3], "rule": "random"}}, [0b100101]),
        ([], [0b100101]),
        (ABOUT, [0b11100101]),  # bits behind the end
    ],
)
def test_mask_files_that_contradict_themselves(sharded: Path, about: Any, bits: list[int]) -> None:
    array = {"a.weight.bitmask": np.array(bits, np.uint8)}
    save_file(array, sharded / MASKS, {mask_file.KEY: json.dumps(about)})
    with pytest.raises(Malformed):
        open_checkpoint(sharded)


def test_masks_of_another_type(sharded: Path) -> None:
    save_file({"a.weight.bitmask": np.zeros(1, np.float32)}, sharded / MASKS, {mask_file.KEY: json.dumps(ABOUT)})
    with pytest.raises(Malformed):
        open_checkpoint(sharded)
