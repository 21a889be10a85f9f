"""sift convert: nothing changes but how tensors are stored, whatever happens on the way."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch.nn.utils import prune

from sift_cli import api
from sift_cli.checkpoint import artifact, mask_file, open_checkpoint, safetensors_header
from sift_cli.conversion import filling, steps
from sift_cli.conversion.work import Work
from sift_cli.core.masks import Mask
from sift_cli.errors import (
    CheckpointError,
    ExportError,
    Malformed,
    OutputBusy,
    OutputExists,
    OutputUnwritable,
    PlanError,
    VerificationFailed,
)


def sparse(shape: tuple[int, ...], seed: int, zeros: float = 0.75, dtype: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * (rng.random(shape) >= zeros)).astype(dtype) + np.zeros((), dtype)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    """What has to survive: specials, kept −0, vectors with zeros, scalars, empty tensors, integers, other floats."""
    special = sparse((40, 7), 1)
    special[0, :5] = [np.nan, -0.0, np.inf, -np.inf, np.float32(1e-45)]
    special.view(np.uint32)[1, 0] = 0xFFC0BEEF  # a NaN with a payload
    return {
        "conv.weight": sparse((16, 8, 3, 3), 2),
        "fc.weight": special,
        "fc.bias": np.zeros(40, np.float32),
        "dense.weight": sparse((9, 9), 3, zeros=0) + 1,
        "half.weight": sparse((33, 25), 4, dtype=np.float16),
        "double.weight": sparse((6, 50), 5, zeros=0.96, dtype=np.float64),
        "steps": np.array(7, np.int64),
        "nothing": np.zeros((0, 4), np.float32),
        "table": np.zeros((4, 4), np.int32),
        "flags": np.array([True, False]),
    }


@pytest.fixture
def source(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Path:
    path = tmp_path / "source.safetensors"
    save_file(tensors, path, metadata={"author": "somebody"})
    return path


def same_bits(got: np.ndarray, expected: np.ndarray) -> bool:
    return got.dtype == expected.dtype and got.shape == expected.shape and got.tobytes() == expected.tobytes()


def assert_same(path: Path, expected: dict[str, np.ndarray]) -> None:
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors.keys() == expected.keys()
        for name, array in expected.items():
            assert same_bits(checkpoint.read(name), array), name


def test_there_and_back_bit_for_bit(source: Path, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    done = api.convert(source, tmp_path / "sparse.safetensors")
    assert (done.encoding, done.tensors, done.masked, done.dropped, done.verified) == ("sift", 10, 4, 0, True)
    assert_same(tmp_path / "sparse.safetensors", tensors)
    api.convert(tmp_path / "sparse.safetensors", tmp_path / "dense.safetensors", to="dense")
    loaded = load_file(tmp_path / "dense.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(same_bits(loaded[name], array) for name, array in tensors.items())


def test_it_is_the_file_that_transform_writes(source: Path, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    """The same tensors, masks and metadata make the same file, whoever writes it. A kept −0 is in the mask."""
    masked = ("conv.weight", "fc.weight", "half.weight", "double.weight")
    masks = {name: Mask.from_bool(tensors[name].view(f"u{tensors[name].itemsize}") != 0) for name in sorted(masked)}
    assert masks["fc.weight"].to_bool()[0, 1]
    artifact.write(tmp_path / "wanted.safetensors", tensors, masks, {"author": "somebody"})
    api.convert(source, tmp_path / "sparse.safetensors")
    assert (tmp_path / "sparse.safetensors").read_bytes() == (tmp_path / "wanted.safetensors").read_bytes()


def test_the_sizes_are_those_of_the_formulas(source: Path, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    done = api.convert(source, tmp_path / "sparse.safetensors")
    with safe_open(tmp_path / "sparse.safetensors", "np") as file:
        stored = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    kept = int((tensors["conv.weight"] != 0).sum())
    assert stored["conv.weight.bitmask"] == [16 * 8 * 9 // 8]
    assert stored["conv.weight.values"] == [kept]
    assert stored["double.weight.delta"][0] >= np.count_nonzero(tensors["double.weight"])
    with open_checkpoint(tmp_path / "sparse.safetensors") as checkpoint:
        assert done.bytes == sum(spec.stored_bytes for spec in checkpoint.tensors.values())
    assert done.source_bytes == sum(array.nbytes for array in tensors.values())


def test_masks_of_zeros_are_for_matrices_that_get_smaller(tmp_path: Path) -> None:
    """A mask takes an eighth of a byte a weight, 1/32 of float32, and what a file says of an array some 256 bytes."""
    once = np.ones((64, 64), np.float32)
    once.reshape(-1)[: 4096 // 32 + 2 * 256 // 4] = 0  # so many values are as many bytes as all that
    more = once.copy()
    more[-1, -1] = 0
    save_file({"once": once, "more": more, "vector": np.zeros(256, np.float32), "row": np.zeros((1, 256), np.float32)},
              tmp_path / "a.safetensors")  # fmt: skip
    api.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with open_checkpoint(tmp_path / "b.safetensors") as checkpoint:
        assert {name for name, spec in checkpoint.tensors.items() if spec.nonzero is not None} == {"more"}
    api.convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", min_sparsity="0.06")
    with open_checkpoint(tmp_path / "c.safetensors") as checkpoint:
        assert {name for name, spec in checkpoint.tensors.items() if spec.nonzero is not None} == {"once", "more"}
    api.convert(tmp_path / "a.safetensors", tmp_path / "d.safetensors", min_sparsity="0.07")
    with open_checkpoint(tmp_path / "d.safetensors") as checkpoint:
        assert all(spec.nonzero is None for spec in checkpoint.tensors.values())


@pytest.mark.parametrize("output", ["b.safetensors", "b.npz"])
@pytest.mark.parametrize("extents", [(6, 8), (12, 24), (40, 40)])
def test_no_file_is_larger_for_its_masks(extents: tuple[int, int], output: str, tmp_path: Path) -> None:
    """Small matrices take fewer bytes than it takes to say where a file has their masks."""
    tensors = {f"blocks.{n}.attention.weight": sparse(extents, n, zeros=0.9) for n in range(50)}
    save_file(tensors, tmp_path / "a.safetensors")
    api.convert(tmp_path / "a.safetensors", tmp_path / f"dense-{output}", to="dense")
    api.convert(tmp_path / "a.safetensors", tmp_path / output)
    dense = (tmp_path / f"dense-{output}").stat().st_size
    assert (tmp_path / output).stat().st_size <= dense + 48  # of the version, and padding
    assert_same(tmp_path / output, tensors)


@pytest.mark.parametrize(
    ("to", "output"),
    [
        ("sift", "b.safetensors"),
        ("sift", "b"),
        ("csr", "b.npz"),
        ("mask", "b.pt"),
        ("prune", "b.npz"),
        ("dense", "b.pt"),
    ],
)
def test_what_has_no_bytes(to: str, output: str, tmp_path: Path) -> None:
    """Empty tensors, and a mask that keeps nothing."""
    tensors = {"empty": np.zeros((0, 3), np.float32), "none": np.zeros((5, 8), np.float32), "one": np.array(2.0)}
    artifact.write(tmp_path / "a.safetensors", tensors, {"none": Mask.from_bool(np.zeros((5, 8), bool))}, {})
    assert api.convert(tmp_path / "a.safetensors", tmp_path / output, to=to).verified
    if output.endswith(".pt"):
        found = torch.load(tmp_path / output, weights_only=True)
        found = {name: tensor.numpy() for name, tensor in found.get("model", found).items()}
    elif output.endswith(".npz"):
        found = dict(np.load(tmp_path / output))
    else:
        found = load_file(tmp_path / output / "model.safetensors" if output == "b" else tmp_path / output)
    assert same_bits(found["empty"], tensors["empty"])
    assert same_bits(found["one"], tensors["one"])
    assert not any(array.any() for name, array in found.items() if name.startswith("none") and "shape" not in name)


def test_a_kept_zero_stays_kept_through_conversions(tmp_path: Path) -> None:
    kept = np.array([[True, False, True, False]] * 6)
    weights = np.where(kept, np.arange(24.0, dtype=np.float32).reshape(6, 4), 0)  # the first kept one is 0
    artifact.write(tmp_path / "a.safetensors", {"w": weights}, {"w": Mask.from_bool(kept, rule="rigl", seed=3)}, {})
    api.convert(tmp_path / "a.safetensors", tmp_path / "b")
    api.convert(tmp_path / "b", tmp_path / "c.safetensors", dtype="bf16", rename=[("w", "layer.w")])
    with open_checkpoint(tmp_path / "c.safetensors") as checkpoint:
        mask = checkpoint.mask("layer.w")
        assert mask is not None
        assert np.array_equal(mask.to_bool(), kept)
        assert (mask.rule, mask.seed) == ("rigl", 3)
        assert same_bits(checkpoint.read("layer.w"), weights.astype(ml_dtypes.bfloat16))


def test_torch_masks_beside_weights_become_masks(tmp_path: Path) -> None:
    module = torch.nn.Linear(6, 5)
    prune.random_unstructured(module, "weight", 0.6)
    torch.save(module.state_dict(), tmp_path / "a.pt")
    done = api.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert done.masked == 1
    with open_checkpoint(tmp_path / "b.safetensors") as checkpoint:
        assert set(checkpoint.tensors) == {"weight", "bias"}
        mask = checkpoint.mask("weight")
        assert mask is not None
        assert np.array_equal(mask.to_bool(), module.weight_mask.numpy() != 0)
        assert np.array_equal(checkpoint.read("weight"), module.weight.detach().numpy())


def test_nan_is_a_mask_only_when_asked(tmp_path: Path) -> None:
    weights = sparse((6, 6), 0, zeros=0)
    weights[::2] = np.nan
    save_file({"w": weights}, tmp_path / "a.safetensors")
    api.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert_same(tmp_path / "b.safetensors", {"w": weights})
    done = api.convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", pruned_nan=True)
    assert done.masked == 1
    assert_same(tmp_path / "c.safetensors", {"w": np.nan_to_num(weights, nan=0.0)})


def test_nan_without_a_mask_cannot_be_where_nan_are_masks(tmp_path: Path) -> None:
    save_file({"w": np.array([[1, np.nan]], np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match="'w' has NaN and no mask"):
        api.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="nan", verify=False)


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_casting_is_torchs(dtype: str, torch_dtype: torch.dtype, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"double": rng.standard_normal((70, 11)), "single": rng.standard_normal((70, 11)).astype(np.float32)}
    arrays["single"][0, :4] = [1e-8, -1e-30, np.inf, 2049.0]  # subnormal, 0, ∞ and a tie in fp16
    save_file({**arrays, "count": np.array([1, 2], np.int32)}, tmp_path / "a.safetensors")
    api.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="dense", dtype=dtype)  # type: ignore[arg-type]
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        for name, array in arrays.items():
            wanted = torch.from_numpy(array).to(torch_dtype)
            assert torch.equal(file.get_tensor(name).view(torch.uint8), wanted.view(torch.uint8))
        assert file.get_tensor("count").dtype == torch.int32


def test_a_number_out_of_range_is_refused_by_its_name(tmp_path: Path) -> None:
    save_file({"w": np.array([[1.0, 70000.0]], np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match="'w' has a weight of 70000, and fp16 ends at 65504"):
        api.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_shards_hold_no_more_than_they_may(source: Path, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    limit = 2000
    api.convert(source, tmp_path / "folder", to="dense", shard_size=limit)
    index = json.loads((tmp_path / "folder" / "model.safetensors.index.json").read_text())
    found = {}
    for file in sorted(set(index["weight_map"].values())):
        shard = load_file(tmp_path / "folder" / file)
        assert len(shard) == 1 or sum(array.nbytes for array in shard.values()) <= limit
        assert {index["weight_map"][name] for name in shard} == {file}
        found |= shard
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors.values())
    assert all(same_bits(found[name], array) for name, array in tensors.items())
    assert_same(tmp_path / "folder", tensors)
    api.convert(tmp_path / "folder", tmp_path / "sparse", shard_size="1 kB")
    assert len(list((tmp_path / "sparse").glob("model-*"))) > 2
    assert_same(tmp_path / "sparse", tensors)


def test_a_folder_takes_its_companions_along(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source.rename(folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "diary.txt").write_text("no")
    api.convert(folder, tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"model.safetensors", "config.json", "tokenizer.json", "sift.safetensors"}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"model_type": "bert"}
    api.convert(folder, tmp_path / "out", to="dense", force=True)  # its own it may replace


def test_masks_beside_the_weights_go_into_the_file(tmp_path: Path) -> None:
    folder, kept = tmp_path / "in", np.arange(64).reshape(8, 8) % 3 == 0
    folder.mkdir()
    save_file({"w": kept.astype(np.float32)}, folder / "model.safetensors")
    mask_file.write(folder / "sift.safetensors", {"w": Mask.from_bool(kept)}, {"sift.note": "true"})
    api.convert(folder, tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "np") as file:
        assert file.metadata().keys() == {"format", "sift.note", *_OF_THE_FORMAT}
        assert np.array_equal(np.unpackbits(file.get_tensor("w.bitmask"), bitorder="little"), kept.reshape(-1))


def test_masks_of_no_tensor_are_not_left_behind(tmp_path: Path) -> None:
    """Their names are the model's, and transformers may store the weight under another."""
    folder, kept = tmp_path / "in", np.arange(64).reshape(8, 8) % 3 == 0
    folder.mkdir()
    save_file({"w": kept.astype(np.float32), "v": kept.astype(np.float32)}, folder / "model.safetensors")
    mask = Mask.from_bool(kept)
    mask_file.write(folder / "sift.safetensors", {"w": mask, "model.v": mask}, {})
    with pytest.raises(CheckpointError, match=r"a mask of 'model\.v', and no tensor of the folder") as raised:
        api.convert(folder, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()
    assert "--min-sparsity" in str(raised.value.hint)
    (folder / "sift.safetensors").unlink()
    assert api.convert(folder, tmp_path / "b.safetensors", min_sparsity=0.5).masked == 2
    with open_checkpoint(tmp_path / "b.safetensors") as checkpoint:
        assert np.array_equal(checkpoint.mask("v").to_bool(), kept)  # type: ignore[union-attr]


@pytest.mark.parametrize(("key", "dtype", "name"), [("dtype", "bf16", "bfloat16"), ("torch_dtype", "fp16", "float16")])
def test_a_configuration_says_the_type_of_the_weights(key: str, dtype: Any, name: str, tmp_path: Path) -> None:
    """transformers loads weights in the type that is written there, whatever the files have."""
    folder = tmp_path / "in"
    folder.mkdir()
    save_file({"w": sparse((40, 40), 0)}, folder / "model.safetensors")
    config = {"model_type": "llava", key: "float32", "text_config": {key: "bfloat16"}, "labels": {"dtype": "a word"}}
    (folder / "config.json").write_text(json.dumps(config))
    api.convert(folder, tmp_path / "out", dtype=dtype)
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found == {**config, key: name, "text_config": {key: name}}
    api.convert(folder, tmp_path / "as-it-is")
    assert json.loads((tmp_path / "as-it-is" / "config.json").read_text()) == config


@pytest.mark.parametrize("name", ["Qwen2.5-0.5B", "Llama-3.1", "v1.0.2-sparse"])
def test_a_number_after_a_dot_is_no_suffix(source: Path, name: str, tmp_path: Path) -> None:
    api.convert(source, tmp_path / name)
    assert (tmp_path / name / "model.safetensors").is_file()


def test_names_change_by_patterns_in_turn(source: Path, tmp_path: Path) -> None:
    api.convert(source, tmp_path / "b.safetensors", rename=[(r"^(\w+)\.weight$", r"model.\1.kernel"), ("model", "m")])
    with open_checkpoint(tmp_path / "b.safetensors") as checkpoint:
        assert {"m.conv.kernel", "m.fc.kernel", "fc.bias", "steps"} < checkpoint.tensors.keys()


@pytest.mark.parametrize(
    ("rename", "why"),
    [
        ([("conv|half", "x")], "both 'x.weight'"),
        ([("fc[.]bias", "fc.weight")], "both 'fc.weight'"),
        ([("(", "x")], "does not work"),
        ([("fc", r"\3")], "does not work"),
        ([(".*", "")], "without a name"),
    ],
)
def test_names_that_cannot_be_are_refused(
    source: Path, rename: list[tuple[str, str]], why: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=why):
        api.convert(source, tmp_path / "b.safetensors", rename=rename)


def test_a_name_that_a_part_needs_is_refused(tmp_path: Path) -> None:
    save_file({"w": sparse((20, 20), 0), "w.bitmask": np.zeros(3, np.uint8)}, tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match=r"'w.bitmask', which another tensor has"):
        api.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_what_a_file_says_of_itself_stays_as_long_as_it_is_true(tmp_path: Path) -> None:
    api.transform("nets:tiny_resnet", tmp_path / "a.safetensors", sparsity="3/4", input_shape=(1, 3, 8, 8))
    api.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    for changes in ({"to": "dense"}, {"dtype": "fp16"}, {"rename": [("conv", "c")]}):
        api.convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", force=True, **changes)  # type: ignore[arg-type]
        with open_checkpoint(tmp_path / "c.safetensors") as checkpoint:
            assert not [key for key in checkpoint.metadata if key.startswith("sift.") and key not in _OF_THE_FORMAT]


_OF_THE_FORMAT = {"sift.version", "sift.sparse"}


class Stopped(BaseException):
    """As a signal stops a program."""


def stopping_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    real = steps.store
    left = iter(range(count))

    def store(*args: object, **kwargs: object) -> object:
        if next(left, None) is None:
            raise Stopped
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "store", store)


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_an_interrupted_conversion_goes_on(
    source: Path, name: str, tensors: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / f"whole-{name}", tmp_path / name
    api.convert(source, whole, shard_size=2000)
    with monkeypatch.context() as patch:
        stopping_after(patch, 4)
        with pytest.raises(Stopped):
            api.convert(source, output, shard_size=2000, jobs=1)
    assert not output.exists()
    assert (tmp_path / f".{name}.sift-converting").is_dir()
    done = api.convert(source, output, shard_size=2000, jobs=1)
    assert done.resumed == 4
    assert not (tmp_path / f".{name}.sift-converting").exists()
    assert_same(output, tensors)
    if output.is_file():
        assert output.read_bytes() == whole.read_bytes()


def test_ctrl_c_says_how_to_go_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "store", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        api.convert(source, tmp_path / "b.safetensors", jobs=1)
    assert stopped.value.__notes__ == ["the same command goes on from there"]
    assert (tmp_path / ".b.safetensors.sift-converting").is_dir()


@pytest.mark.parametrize("change", ["source", "options", "torn journal"])
def test_what_is_there_of_something_else_is_not_gone_on_with(
    source: Path, change: str, tensors: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopping_after(patch, 4)
        with pytest.raises(Stopped):
            api.convert(source, tmp_path / "b.safetensors", jobs=1)
    if change == "source":
        tensors["conv.weight"] = tensors["conv.weight"] + 1
        save_file(tensors, source)
    journal = tmp_path / ".b.safetensors.sift-converting" / "journal"
    if change == "torn journal":
        journal.write_bytes(journal.read_bytes()[:-5])
    done = api.convert(source, tmp_path / "b.safetensors", jobs=1, to="dense" if change == "options" else None)
    assert done.resumed == (3 if change == "torn journal" else 0)
    assert_same(tmp_path / "b.safetensors", tensors)


@pytest.mark.parametrize("kind", ["masks beside the weights", "data beside an ONNX model"])
def test_a_file_beside_that_has_changed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (np.arange(64, dtype=np.float32).reshape(8, 8) % step for step in (2, 3))
    names, folder = [f"w{n}" for n in range(4)], tmp_path / "in"
    folder.mkdir()

    def write(values: np.ndarray) -> Path:
        if kind.startswith("masks"):
            save_file(dict.fromkeys(names, np.zeros((8, 8), np.float32)), folder / "model.safetensors")
            os.utime(folder / "model.safetensors", ns=(0, 0))
            masks = dict.fromkeys(names, Mask.from_bool(values != 0))
            mask_file.write(folder / "sift.safetensors", masks, {})
            return folder
        (folder / "m.data").unlink(missing_ok=True)
        graph = onnx.helper.make_graph([], "g", [], [], [onnx.numpy_helper.from_array(values, name) for name in names])
        onnx.save_model(
            onnx.helper.make_model(graph), folder / "m.onnx",
            save_as_external_data=True, size_threshold=0, location="m.data",
        )  # fmt: skip
        os.utime(folder / "m.onnx", ns=(0, 0))
        return folder / "m.onnx"

    for values in (first, second):
        read = write(values)
        if values is first:
            with monkeypatch.context() as patch:
                stopping_after(patch, 2)
                with pytest.raises(Stopped):
                    api.convert(read, tmp_path / "b.pt", to="prune", jobs=1, min_sparsity=0.1)
    assert api.convert(read, tmp_path / "b.pt", to="prune", jobs=1, min_sparsity=0.1).resumed == 0
    found = torch.load(tmp_path / "b.pt", weights_only=True)
    for name in names:
        assert np.array_equal(found[f"{name}_mask"].numpy() != 0, second != 0)


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_what_was_written_and_is_gone_is_written_again(
    source: Path, name: str, tensors: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends between the moment when the output leaves its folder and that when it has its name."""
    real = steps.Conversion.publish

    def publish(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(steps.Conversion, "publish", publish)
        close = Work.close
        patch.setattr(Work, "close", lambda self, *, keep: close(self, keep=True))
        with pytest.raises(Stopped):
            api.convert(source, tmp_path / name, shard_size=2000)
    assert api.convert(source, tmp_path / name, shard_size=2000).resumed == 0
    assert_same(tmp_path / name, tensors)


def test_kill_9_leaves_nothing_or_all_and_the_next_run_ends_it(tmp_path: Path) -> None:
    """A process that kills itself with some tensors written; the next one finds them."""
    save_file({f"w{i}": sparse((300, 300), i) for i in range(12)}, tmp_path / "a.safetensors")
    code = (
        "import os, signal, sys\nfrom sift_cli import api\nfrom sift_cli.conversion import steps, work\n"
        "work._FLUSH = 1\n"
        "real, left = steps.store, [7]\n"
        "def store(*args, **kwargs):\n    left[0] -= 1\n    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*args, **kwargs)\nsteps.store = store\napi.convert(*sys.argv[1:3], jobs=1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.safetensors", tmp_path / "b.safetensors"], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "b.safetensors").exists()
    assert api.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors").resumed == 6
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors"}


def test_a_byte_that_changes_on_the_way_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Work.write

    def write(self: Work, file: str, at: int, data: object) -> None:
        changed = bytearray(memoryview(data).cast("B"))  # type: ignore[arg-type]
        if len(changed) == 160:  # fc.bias, of zeros
            changed[77] ^= 1
        real(self, file, at, changed)

    monkeypatch.setattr(Work, "write", write)
    with pytest.raises(VerificationFailed, match=r"the tensor 'fc\.bias'"):
        api.convert(source, tmp_path / "b.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]
    assert not api.convert(source, tmp_path / "b.safetensors", verify=False).verified


def test_a_mask_that_changes_on_the_way_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = filling.checksum
    monkeypatch.setattr(steps, "checksum", lambda values, mask: real(values, None))
    with pytest.raises(VerificationFailed, match="reads differently"):
        api.convert(source, tmp_path / "b.safetensors")


def test_one_process_writes_at_a_time(source: Path, tmp_path: Path) -> None:
    work = Work(tmp_path / "b.safetensors", {})
    with pytest.raises(OutputBusy, match="another process is writing"):
        api.convert(source, tmp_path / "b.safetensors")
    work.close(keep=False)
    api.convert(source, tmp_path / "b.safetensors")
    with pytest.raises(OutputExists):
        api.convert(source, tmp_path / "b.safetensors")


def test_a_full_disk_is_noticed_before_the_work(source: Path, tmp_path: Path) -> None:
    """A limit on the size of files, which the system reports as it does a full disk."""
    code = "import sys\nfrom sift_cli.app import app\napp(['convert', *sys.argv[1:]])"

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(
        [sys.executable, "-c", code, source, tmp_path / "b.safetensors"],
        preexec_fn=limited, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr == f"error: cannot write {tmp_path / 'b.safetensors'}: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


def test_a_damaged_tensor_leaves_nothing(tmp_path: Path) -> None:
    kept = np.array([[True, False], [False, True]])
    artifact.write(tmp_path / "a.safetensors", {"w": kept.astype(np.float32)}, {"w": Mask.from_bool(kept)}, {})
    data = bytearray((tmp_path / "a.safetensors").read_bytes())
    data[-1] ^= 4  # the bitmask keeps one more
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(Malformed, match="tensor 'w'"):
        api.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_outputs_that_cannot_be(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the suffix \.gguf"):
        api.convert(source, tmp_path / "b.gguf")
    with pytest.raises(ExportError, match=r"b\.npz cannot hold weights as 'sift'"):
        api.convert(source, tmp_path / "b.npz", to="sift")
    with pytest.raises(PlanError, match="no encoding 'zip'"):
        api.convert(source, tmp_path / "b.safetensors", to="zip")
    with pytest.raises(OutputUnwritable):
        api.convert(source, tmp_path / "no" / "b.safetensors")


@pytest.mark.parametrize(
    ("names", "extent"),
    [([f"w{i:02}" for i in range(16)], 4096), (["a_orig", "a_mask", "b_orig", "b_mask", "c_orig", "c_mask"], 8192)],
    ids=["plain", "masks beside the weights"],
)
def test_memory_is_that_of_two_tensors(names: list[str], extent: int, tmp_path: Path) -> None:
    """Each tensor takes 64 MB, or 268, in holes that take no room on the disk."""
    nbytes = 4 * extent**2
    header, _ = safetensors_header.layout(dict.fromkeys(names, ("F32", (extent, extent))), {})
    with open(tmp_path / "a.safetensors", "wb") as file:
        file.write(header)
        file.truncate(len(header) + len(names) * nbytes)
    code = (
        "import sys\nfrom sift_cli import api\napi.convert(*sys.argv[1:3], jobs=4)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    peak = 1024 * int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 2 * nbytes + 300e6
