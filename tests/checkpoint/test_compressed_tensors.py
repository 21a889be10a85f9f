"""Sparse weights of compressed-tensors. The parts are those that its version 0.13.0 made of the dense weights."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.compressed_tensors import plain_config
from sift_cli.checkpoint.report import inspect
from sift_cli.errors import Malformed

DENSE = np.zeros((3, 12), np.float32)
DENSE[0, 1], DENSE[0, 9], DENSE[2, 0], DENSE[2, 11] = 1.5, -2, 3, 4
BITMASK = {
    "a.shape": np.array([3, 12]),
    "a.compressed": np.float32([1.5, -2, 3, 4]),
    "a.bitmask": np.array([[2, 2], [0, 0], [1, 8]], np.uint8),
    "a.row_offsets": np.array([0, 2, 2]),
}
#: The second row has one value in each group of four, beside which a 0 is kept.
DENSE24 = np.float32([[1, 0, 0, -2, 0, 3, 4, 0], [0, 0, 0, 5, 6, 0, 0, 0]])
KEPT24 = np.array([[1, 0, 0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 0, 1, 0]], bool)
BITMASK24 = {
    "b.shape": np.array([[2], [8]]),
    "b.compressed": np.float32([[1, -2, 3, 4], [0, 5, 6, 0]]),
    "b.bitmask": np.array([[105], [92]], np.uint8),
}
BIAS = {"a.bias": np.ones(3, np.float32), "a.weight_scale": np.float32([2])}


@pytest.fixture
def folder(tmp_path):
    """A sharded folder, the last part of one weight in another shard than the others."""
    parts = {**BITMASK, **BITMASK24, **BIAS}
    shards = {name: f"model-0000{1 + (name in ('a.row_offsets', 'b.shape'))}-of-00002.safetensors" for name in parts}
    for shard in set(shards.values()):
        save_file({name: array for name, array in parts.items() if shards[name] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    sparsity = {"format": "sparse-bitmask", "global_sparsity": 0.48, "sparsity_structure": "unstructured"}
    quantization = {"quant_method": "compressed-tensors", "sparsity_config": sparsity}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": quantization}))
    return tmp_path


def test_a_file(tmp_path):
    save_file({**BITMASK, **BITMASK24, **BIAS}, tmp_path / "x")
    check(tmp_path / "x")


def test_a_folder_of_shards(folder):
    check(folder)


def check(path):
    with open_checkpoint(path) as checkpoint:
        found = {name: (spec.shape, spec.format, spec.nonzero) for name, spec in checkpoint.tensors.items()}
        assert found == {
            "a.weight": ((3, 12), "sparse-bitmask", 4),
            "b.weight": ((2, 8), "sparse-24-bitmask", 8),
            "a.bias": ((3,), "dense", None),
            "a.weight_scale": ((1,), "dense", None),
        }
        assert checkpoint.read("a.weight").tobytes() == DENSE.tobytes()
        assert checkpoint.read("b.weight").tobytes() == DENSE24.tobytes()
        assert np.array_equal(checkpoint.mask("a.weight").to_bool(), DENSE != 0)
        assert np.array_equal(checkpoint.mask("b.weight").to_bool(), KEPT24)
        assert checkpoint.mask("a.bias") is None
        assert checkpoint.read("a.bias").tolist() == [1, 1, 1]
        assert checkpoint.tensors["a.weight"].stored_bytes == 16 + 16 + 6 + 24
    assert inspect(path).sparsity == 1 - (4 + 8 + 3 + 1) / (36 + 16 + 3 + 1)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8], ids=str)
def test_dtypes(dtype, tmp_path):
    save_file({**BITMASK, "a.compressed": np.array([1, -2, 3, 4]).astype(dtype)}, tmp_path / "x")
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.read("a.weight").dtype == dtype
        assert checkpoint.read("a.weight")[DENSE != 0].tolist() == [1, -2, 3, 4]


@pytest.mark.parametrize("part", ["shape", "bitmask"])
def test_names_alone_are_no_sparse_weight(part, tmp_path):
    save_file({name: array for name, array in BITMASK.items() if name != f"a.{part}"}, tmp_path / "x")
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.tensors.keys() == BITMASK.keys() - {f"a.{part}"}


LIES = {
    "a shape of three axes": ({"a.shape": np.array([1, 3, 12])}, "its shape is I64 [3]"),
    "a shape of floats": ({"a.shape": np.float64([3, 12])}, "its shape is F64 [2]"),
    "a negative shape": ({"a.shape": np.array([-3, 12])}, "not a shape"),
    "a shape of 2^80": ({"a.shape": np.array([2**40, 2**40])}, "2^63"),
    "a bitmask of fewer columns": ({"a.bitmask": np.zeros((3, 1), np.uint8)}, "its bitmask is U8 [3, 1]"),
    "a bitmask of more rows": ({"a.bitmask": np.zeros((4, 2), np.uint8)}, "its bitmask is U8 [4, 2]"),
    "a bitmask of bools": ({"a.bitmask": np.zeros((3, 2), bool)}, "its bitmask is BOOL"),
    "values of two axes": ({"a.compressed": np.zeros((2, 2), np.float32)}, "its values are [2, 2]"),
    "more values than elements": ({"a.compressed": np.zeros(37, np.float32)}, "its values are [37]"),
    "offsets of fewer rows": ({"a.row_offsets": np.array([0, 2])}, "its row offsets [2]"),
    "offsets of another dtype": ({"a.row_offsets": np.int32([0, 2, 2])}, "its row offsets [3]"),
    "24 of another width": ({"b.compressed": np.zeros((2, 3), np.float32)}, "which is not half of [2, 8]"),
    "dense too": ({"a.weight": DENSE}, "both dense and sparse"),
}


@pytest.mark.parametrize("lie", LIES)
def test_parts_that_do_not_fit_are_refused_at_opening(lie, tmp_path):
    changed, why = LIES[lie]
    save_file({**BITMASK, **BITMASK24, **changed}, tmp_path / "x")
    with pytest.raises(Malformed) as raised:
        open_checkpoint(tmp_path / "x")
    assert f"damaged at tensor '{next(iter(changed))[0]}.weight'" in str(raised.value)
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"a.bitmask": np.array([[2, 2], [0, 0], [1, 0]], np.uint8)}, "keeps 3 weights, and there are 4 values"),
        ({"a.bitmask": np.array([[2, 2], [1, 0], [1, 8]], np.uint8)}, "keeps 5 weights, and there are 4 values"),
        ({"a.bitmask": np.array([[2, 18], [0, 0], [1, 0]], np.uint8)}, "after the last of 12 columns"),
        ({"a.row_offsets": np.array([0, 1, 2])}, "do not begin where its bitmask says"),
        ({"b.bitmask": np.array([[105], [93]], np.uint8)}, "keeps 9 weights, and there are 8 values"),
    ],
)
def test_a_bitmask_that_lies_is_refused_when_it_is_read(changed, why, tmp_path):
    save_file({**BITMASK, **BITMASK24, **changed}, tmp_path / "x")
    name = f"{next(iter(changed))[0]}.weight"
    with open_checkpoint(tmp_path / "x") as checkpoint:
        for ask in (checkpoint.read, checkpoint.mask):
            with pytest.raises(Malformed) as raised:
                ask(name)
            assert f"damaged at tensor {name!r}" in str(raised.value)
            assert why in str(raised.value)


def test_a_mask_is_read_without_the_values(folder, monkeypatch):
    with open_checkpoint(folder) as checkpoint:
        inner, read = checkpoint._inner, []
        monkeypatch.setattr(inner, "read", lambda name, real=inner.read: read.append(name) or real(name))
        assert checkpoint.mask("a.weight").nonzero == 4
        assert read == ["a.bitmask", "a.row_offsets"]


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        ({"a": 1}, {"a": 1}),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}},) * 2,
        ({"a": 1, "quantization_config": {"quant_method": "compressed-tensors", "sparsity_config": {}}}, {"a": 1}),
        ({"compression_config": {"version": "0.8", "sparsity_config": {"format": "dense"}}}, {}),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "format": "x", "sparsity_config": {}}},
            {"quantization_config": {"quant_method": "compressed-tensors", "format": "x"}},
        ),
        ({"quantization_config": "no mapping"},) * 2,
    ],
)
def test_a_configuration_without_sparse_weights(config, plain):
    assert plain_config(config) == plain
