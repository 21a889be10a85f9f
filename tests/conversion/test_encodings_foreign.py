"""Encodings of other tools, read back by sift and by those tools, bit for bit."""

import os
import subprocess
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import planned
import pytest
import scipy.sparse
import torch
from masks import random_mask
from safetensors.numpy import load_file
from torch import nn
from torch.nn.utils import prune

from sift_cli import api
from sift_cli.checkpoint import open_checkpoint, sidebands
from sift_cli.checkpoint.torch_arrays import to_numpy
from sift_cli.conversion import encodings
from sift_cli.conversion.encodings import Array
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPE_NAMES, TensorSpec
from sift_cli.errors import ExportError

RNG = np.random.default_rng(0)
#: Shapes that are no multiple of eight, and long ones that are encoded in several pieces.
SHAPES = {"odd": (5, 7), "one row": (1, 9), "one column": (9, 1), "kernel": (3, 2, 3, 3), "long": (1100, 1001)}
FILES = {"safetensors": "x.safetensors", "torch_zip": "x.pt", "npz": "x.npz"}


def masked(shape, dtype=np.float32, *, special=True):
    """A weight and its mask: among the kept are 0, −0 and, if ``special``, NaN, infinities and a subnormal number."""
    kept = RNG.random(shape) < 0.4
    values = RNG.normal(size=shape).astype(dtype)
    flat, order = values.reshape(-1), RNG.permutation(values.size)
    numbers = [0, -0.0, *([np.nan, np.inf, -np.inf, 1e-7] if special else [])]
    for at, number in zip(order, numbers, strict=False):
        flat[at], kept.reshape(-1)[at] = number, True
    values[~kept] = 0
    return values, kept


def weights(shapes=SHAPES, dtype=np.float32, *, special=True):
    found = {f"{name}.weight": masked(shape, dtype, special=special) for name, shape in shapes.items()}
    everything, nothing = (RNG.normal(size=(3, 6)) for _ in range(2))
    return found | {
        "all.weight": (everything.astype(dtype), np.ones((3, 6), bool)),
        "none.weight": (np.zeros_like(nothing, dtype), np.zeros((3, 6), bool)),
        "bias": (np.arange(6, dtype=np.float32), None),
    }


def read_back(path, wanted, *, dense=()):
    """Every tensor and mask as sift reads them; those in ``dense`` have lost their masks."""
    with open_checkpoint(path) as checkpoint:
        found = {name: one for kind in sidebands.find(checkpoint).values() for name, one in kind.items()}
        assert found.keys() == {name for name, (_, kept) in wanted.items() if kept is not None} - {*dense}
        for name, (values, kept) in wanted.items():
            if name not in found:
                assert checkpoint.read(name).tobytes() == values.tobytes(), name
                continue
            array, mask = found[name].read()
            assert (array.dtype, array.shape) == (values.dtype, values.shape), name
            assert array.tobytes() == values.tobytes(), name
            assert np.array_equal(mask, kept), name


def parts(encoding, values, kept, name="a.weight"):
    spec = TensorSpec(name, values.shape, DTYPE_NAMES[values.dtype], values.nbytes)
    return encodings.get(encoding).parts(spec, Mask.from_bool(kept))


# mask


@pytest.mark.parametrize("container", FILES)
def test_mask(container, tmp_path):
    wanted = weights()
    planned.write(tmp_path / FILES[container], "mask", container, wanted)
    read_back(tmp_path / FILES[container], wanted)


def test_mask_is_what_cerebras_registers(tmp_path):
    """A buffer of bools beside the parameter, in a state_dict that its trainer finds under "model"."""
    values, kept = masked((4, 6))
    planned.write(tmp_path / "x.pt", "mask", "torch_zip", {"weight": (values, kept), "bias": (np.zeros(4), None)})
    layer = nn.Linear(6, 4)
    layer.register_buffer("weight_mask", torch.ones_like(layer.weight, dtype=torch.bool), persistent=True)
    state = torch.load(tmp_path / "x.pt")["model"]
    assert state["weight_mask"].dtype == torch.bool
    layer.load_state_dict(state, strict=True)
    assert to_numpy(layer.weight).tobytes() == values.tobytes()
    assert np.array_equal(layer.weight_mask.numpy(), kept)
    with torch.no_grad():
        pruned = layer.weight.mul(layer.weight_mask)
    assert np.array_equal(to_numpy(pruned), values, equal_nan=True)


def test_a_dense_file_has_no_key_above_the_weights(tmp_path):
    planned.write(tmp_path / "x.pt", "mask", "torch_zip", {"w": (np.ones((2, 2)), None)})
    assert list(torch.load(tmp_path / "x.pt")) == ["w"]


def test_vectors_have_no_masks_there():
    with pytest.raises(ExportError, match="'bias' has a mask and is no matrix"):
        parts("mask", np.ones(3, np.float32), np.ones(3, bool), "bias")


# nan


@pytest.mark.parametrize("container", FILES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=str)
def test_nan(container, dtype, tmp_path):
    wanted = weights(dtype=dtype, special=False)
    del wanted["none.weight"]
    planned.write(tmp_path / FILES[container], "nan", container, wanted)
    read_back(tmp_path / FILES[container], wanted, dense=["all.weight"])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2], ids=str)
def test_nan_in_types_that_numpy_lacks(dtype, tmp_path):
    wanted = {"w": masked((5, 7), dtype, special=False)}
    planned.write(tmp_path / "x.safetensors", "nan", "safetensors", wanted)
    read_back(tmp_path / "x.safetensors", wanted)


def test_nan_is_where_the_mask_keeps_nothing(tmp_path):
    values, kept = masked((5, 7), special=False)
    planned.write(tmp_path / "x.npz", "nan", "npz", {"w": (values, kept)})
    found = np.load(tmp_path / "x.npz")["w"]
    assert np.array_equal(np.isnan(found), ~kept)
    assert found[kept].tobytes() == values[kept].tobytes()


@pytest.mark.parametrize(
    ("values", "kept", "why"),
    [
        (np.ones((2, 2), np.int8), [[1, 0], [1, 1]], "its element type I8 has no NaN"),
        (np.ones(4, np.float32), [1, 0, 1, 1], "it is no matrix"),
        (np.zeros((2, 2), np.float32), [[0, 0], [0, 0]], "its mask keeps nothing"),
        (np.float32([[np.nan, 0], [1, 1]]), [[1, 0], [1, 1]], "it has NaN or infinities of its own"),
        (np.float32([[-np.inf, 0], [1, 1]]), [[1, 0], [1, 1]], "it has NaN or infinities of its own"),
    ],
    ids=["integers", "a vector", "nothing kept", "NaN kept", "infinity kept"],
)
def test_what_nan_cannot_stand_for(values, kept, why, tmp_path):
    with pytest.raises(ExportError, match=f"NaN cannot stand for the pruned weights of 'w': {why}"):
        planned.write(tmp_path / "x.npz", "nan", "npz", {"w": (values, np.array(kept, bool))})


# prune


@pytest.mark.parametrize("container", FILES)
def test_prune(container, tmp_path):
    wanted = weights(SHAPES | {"vector": (11,), "scalar": ()})
    planned.write(tmp_path / FILES[container], "prune", container, wanted)
    read_back(tmp_path / FILES[container], wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_prune_is_what_torch_makes(dtype, tmp_path):
    def pruned(weight, bias):
        layer = nn.Conv2d(2, 3, 3).to(dtype)
        prune.custom_from_mask(layer, "weight", weight)
        prune.custom_from_mask(layer, "bias", bias)
        return layer

    torch.manual_seed(0)
    wanted = pruned(torch.rand(3, 2, 3, 3) < 0.5, torch.tensor([1, 0, 1]))
    state = wanted.state_dict()
    found = {
        name: (to_numpy(state[f"{name}_orig"] * state[f"{name}_mask"]), state[f"{name}_mask"].bool().numpy())
        for name in ("weight", "bias")
    }
    for values, kept in found.values():
        values[~kept] = 0  # and not −0, as sift has it
    planned.write(tmp_path / "x.pt", "prune", "torch_zip", found)
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert {name: (t.dtype, t.shape) for name, t in loaded.items()} == {
        name: (t.dtype, t.shape) for name, t in state.items()
    }
    layer = pruned(torch.ones(3, 2, 3, 3), torch.ones(3))
    layer.load_state_dict(loaded, strict=True)
    image = torch.ones(1, 2, 3, 3, dtype=dtype)
    assert torch.equal(layer(image), wanted(image))
    prune.remove(layer, "weight")
    assert to_numpy(layer.weight).tobytes() == found["weight"][0].tobytes()


# csr


def test_csr(tmp_path):
    wanted = weights(SHAPES | {"vector": (11,)})
    planned.write(tmp_path / "x.npz", "csr", "npz", wanted)
    read_back(tmp_path / "x.npz", wanted)


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.uint16, np.bool_, np.complex64], ids=str)
def test_csr_in_other_types(dtype, tmp_path):
    kept = RNG.random((6, 5)) < 0.5
    wanted = {"w": (np.where(kept, RNG.integers(0, 2, (6, 5)), 0).astype(dtype), kept)}
    planned.write(tmp_path / "x.npz", "csr", "npz", wanted)
    read_back(tmp_path / "x.npz", wanted)


def test_scipy_reads_csr(tmp_path):
    wanted = weights(SHAPES | {"vector": (11,)})
    planned.write(tmp_path / "x.npz", "csr", "npz", wanted)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as z:
        for name, (values, kept) in wanted.items():
            if kept is None:
                assert z[name].tobytes() == values.tobytes()
                continue
            vectors = (z[f"{name}.data"], z[f"{name}.indices"], z[f"{name}.indptr"])
            matrix = scipy.sparse.csr_matrix(vectors, shape=tuple(z[f"{name}.shape"]))
            matrix.check_format(full_check=True)
            listed = matrix.tocoo()
            flat = np.ravel_multi_index((listed.row, listed.col), matrix.shape)
            assert np.array_equal(flat, np.flatnonzero(kept))
            assert matrix.data.tobytes() == values[kept].tobytes()
            shape = tuple(z[f"{name}.dense_shape"]) if f"{name}.dense_shape" in z else matrix.shape
            assert np.array_equal(matrix.toarray().reshape(shape), values, equal_nan=True)
            assert {array.dtype for array in vectors[1:]} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    ("shape", "kept", "index"),
    [((3, 2**31), 5, "I64"), ((2**31, 3), 5, "I32"), ((2**16, 2**16), 2**31, "I64"), ((2**16, 2**16), 2**30, "I32")],
)
def test_csr_beyond_int32(shape, kept, index):
    mask = SimpleNamespace(nonzero=kept, rule="file", seed=None)
    found = encodings.get("csr").parts(TensorSpec("w", shape, "U8", 0), mask).parts
    assert found["w.indices"] == Array(index, (kept,))
    assert found["w.indptr"] == Array(index, (shape[0] + 1,))


def test_csr_of_float16():
    with pytest.raises(ExportError, match=r"'a\.weight' is float16, which scipy has no sparse matrices of") as refused:
        parts("csr", np.ones((2, 2), np.float16), np.ones((2, 2), bool))
    assert refused.value.hint == "convert it: --dtype fp32"


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0)])
def test_csr_of_nothing_is_dense(shape):
    assert parts("csr", np.zeros(shape, np.float32), np.zeros(shape, bool)) is None


# from one to another


def test_a_chain_of_conversions(tmp_path):
    """Through each encoding, each read by the reader of the one before."""
    wanted = {name: masked(shape, special=False) for name, shape in (("a.weight", (9, 7)), ("b.weight", (64, 32)))}
    wanted |= {"c.weight": two_of_four(4, 2), "a.bias": (np.ones(9, np.float32), None)}
    planned.write(tmp_path / "0.pt", "prune", "torch_zip", wanted)
    steps = [
        *(("mask", "1.npz"), ("csr", "2.npz"), ("nan", "3.pt"), ("prune", "4.safetensors")),
        *(("compressed_tensors", "5"), ("sift", "6"), ("mask", "7.pt"), ("compressed_tensors", "8.safetensors")),
    ]
    for before, (encoding, file) in zip(["0.pt", *(file for _, file in steps)], steps, strict=False):
        done = api.convert(tmp_path / before, tmp_path / file, to=encoding, pruned_nan=before == "3.pt", jobs=1)
        assert (done.masked, done.dropped, done.verified) == (3, 0, True)
        read_back(tmp_path / file, wanted)
    api.convert(tmp_path / "8.safetensors", tmp_path / "9.safetensors", to="compressed_tensors_24", jobs=1)
    read_back(tmp_path / "9.safetensors", wanted, dense=["a.weight", "b.weight"])


# compressed-tensors


def two_of_four(rows, groups):
    kept = RNG.random((rows, groups, 4)).argsort(axis=2) < 2
    values = RNG.normal(size=kept.shape).astype(np.float32)
    values[0, 0, kept[0, 0]] = 0, -0.0
    values[~kept] = 0
    return values.reshape(rows, -1), kept.reshape(rows, -1)


MATRICES = {name: shape for name, shape in SHAPES.items() if len(shape) == 2}


def semi_structured():
    return {"a.weight": two_of_four(3, 3), "long.weight": two_of_four(700, 501), "b.bias": (np.ones(3), None)}


@pytest.mark.parametrize("container", ["safetensors", "folder"])
def test_compressed_tensors(container, tmp_path):
    path = tmp_path / ("x.safetensors" if container == "safetensors" else "")
    wanted = weights(MATRICES)
    planned.write(path, "compressed_tensors", container, wanted)
    read_back(path, wanted)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors["odd.weight"].format == "sparse-bitmask"


def test_compressed_tensors_24(tmp_path):
    wanted = semi_structured()
    planned.write(tmp_path / "x.safetensors", "compressed_tensors_24", "safetensors", wanted)
    read_back(tmp_path / "x.safetensors", wanted)
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.tensors["a.weight"].format == "sparse-24-bitmask"


@pytest.mark.parametrize("encoding", ["compressed_tensors", "compressed_tensors_24"])
@pytest.mark.parametrize(
    ("name", "shape"), [("a.weight", (2, 4, 1)), ("a.weight", (8,)), ("a.weight", (0, 8)), ("a.kernel", (2, 4))]
)
def test_only_matrices_called_weight_are_compressed(encoding, name, shape):
    kept = np.tile([True, False], 8)[: np.prod(shape)].reshape(shape)
    assert parts(encoding, np.zeros(shape, np.float32), kept, name) is None


@pytest.mark.parametrize(
    "kept",
    [[[1, 1, 1, 0, 1, 0, 0, 0]], [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]]],
    ids=["three and one", "rows of three", "four and none"],
)
def test_two_of_four_and_nothing_else(kept):
    kept = np.array(kept, bool)
    assert parts("compressed_tensors_24", np.zeros(kept.shape, np.float32), kept) is None
    assert parts("compressed_tensors", np.zeros(kept.shape, np.float32), kept) is not None


def test_configurations():
    kept = np.array([[1, 0, 1, 0], [0, 1, 1, 0]], bool)
    encoded = {f"{n}.weight": parts("compressed_tensors_24", np.zeros((2, 4), np.float32), kept) for n in "ba"}
    sparsity = {
        "format": "sparse-24-bitmask",
        "global_sparsity": 0.5,
        "sparsity_structure": "2:4",
        "targets": ["a", "b"],
        "ignore": [],
        "registry_requires_subclass": False,
    }
    quantization = {"quant_method": "compressed-tensors", "sparsity_config": sparsity}
    config = encodings.get("compressed_tensors_24").config
    assert config({"model_type": "llama"}, encoded) == {"model_type": "llama", "quantization_config": quantization}
    assert config({"model_type": "llama"}, {}) == {"model_type": "llama"}
    quantized = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {}}}
    assert config(quantized, encoded) == {"quantization_config": {**quantization, "config_groups": {}}}
    plain = encodings.get("compressed_tensors").config({}, {"x": parts("compressed_tensors", kept * 1.0, kept)})
    assert plain["quantization_config"]["sparsity_config"]["format"] == "sparse-bitmask"
    assert plain["quantization_config"]["sparsity_config"]["sparsity_structure"] == "unstructured"


#: What sizes come to for matrices of 576 columns at 50, 75, 90 and 95 % sparsity, as a part of the dense size.
SIZES = {
    ("compressed_tensors", np.float32): (0.535, 0.285, 0.135, 0.085),
    ("compressed_tensors", np.float16): (0.569, 0.319, 0.169, 0.119),
    ("csr", np.float32): (1.002, 0.502, 0.202, 0.102),
}


@pytest.mark.parametrize(("encoding", "dtype"), SIZES)
def test_sizes(encoding, dtype):
    values = np.zeros((1000, 576), dtype)
    for density, size in zip((0.5, 0.25, 0.1, 0.05), SIZES[encoding, dtype], strict=True):
        kept = random_mask(values.shape, round(density * values.size), seed=0, name="w").to_bool()
        found = parts(encoding, values, kept)
        assert round(found.nbytes / values.nbytes, 3) == size


#: Runs in the environment of compressed-tensors: all tensors of each folder, once from its files and once through a
#: model that gets them as transformers loads one.
READ = """
import json, sys
sys.modules["torchvision"] = None  # transformers imports it if it is there, and nothing here needs it
import torch
from compressed_tensors import __version__
from compressed_tensors.compressors import ModelCompressor
from safetensors.torch import load_file, save_file

assert __version__.startswith(("0.13.", "0.14.")), __version__
for folder in sys.argv[1:]:
    config = json.load(open(f"{folder}/config.json"))["quantization_config"]
    compressor = ModelCompressor.from_compression_config(config)
    found = dict(compressor.sparsity_compressor.decompress(folder))
    save_file(found, f"{folder}/files.out")

    layers = {name.removesuffix(".weight"): w.shape for name, w in found.items() if name.endswith(".weight")}
    model = torch.nn.ModuleDict({name: torch.nn.Linear(c, r, bias=False) for name, (r, c) in layers.items()})
    compressor.compress_model(model)
    for name, tensor in load_file(f"{folder}/model.safetensors").items():
        layer, _, part = name.rpartition(".")
        if layer in layers:
            model[layer].register_parameter(part, torch.nn.Parameter(tensor, requires_grad=False))
    compressor.decompress_model(model)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, f"{folder}/model.out")
"""


def test_compressed_tensors_itself_reads_it(tmp_path):
    python = os.environ.get("SIFT_COMPRESSED_TENSORS_PYTHON")
    if python is None:
        pytest.skip("SIFT_COMPRESSED_TENSORS_PYTHON names no interpreter with compressed-tensors 0.13 or 0.14")
    wanted = {"compressed_tensors": weights(MATRICES), "compressed_tensors_24": semi_structured()}
    for encoding, one in wanted.items():
        for layer, dtype in (("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)):
            values, kept = two_of_four(2, 3)
            one[f"{layer}.weight"] = values.astype(dtype), kept
        (tmp_path / encoding).mkdir()
        planned.write(tmp_path / encoding, encoding, "folder", one, shard_size=2**30)
    subprocess.run([python, "-c", READ, *(tmp_path / encoding for encoding in wanted)], check=True)
    for encoding, one in wanted.items():
        in_files, in_model = (load_file(tmp_path / encoding / file) for file in ("files.out", "model.out"))
        assert in_files.keys() == one.keys()
        assert in_model.keys() == {name for name, (_, kept) in one.items() if kept is not None}
        for name, array in [*in_files.items(), *in_model.items()]:
            assert array.tobytes() == one[name][0].tobytes(), f"{encoding}: {name}"
