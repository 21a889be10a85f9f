"""sift's artifact: what it looks like to others, that it is the same in every process, and what its writer refuses."""

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint._bytes import ByteFile
from sift_cli.checkpoint.artifact import write
from sift_cli.checkpoint.torch_arrays import to_numpy
from sift_cli.core.masks import Mask, MaskSet
from sift_cli.core.tensors import DTYPES
from sift_cli.errors import ExportError
from sift_cli.registry import names

PAGE = (Path(__file__).parents[2] / "docs" / "sparse-formats.md").read_text()
KEPT = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 1, 1]], bool)
W = np.array([[1.5, 0, 0, -2, 0], [0, 0, 0, -0.0, 4]], np.float32)
TENSORS = {"fc.weight": W, "bn.count": np.array(3), "fc.bias": np.array([1, 2], ml_dtypes.bfloat16)}
MASKS = MaskSet({"fc.weight": Mask.from_bool(KEPT, rule="random", seed=7)})


def test_the_file_byte_for_byte(tmp_path):
    """Laid out by hand from docs/sparse-formats.md."""
    write(tmp_path / "a", TENSORS, MASKS, {"sift.plan": "{}"})
    header = (
        b'{"__metadata__":{"format":"pt","sift.plan":"{}","sift.sparse":"{\\"fc.weight\\":{\\"format\\":\\"bitmask\\",'
        b'\\"shape\\":[2,5],\\"dtype\\":\\"F32\\",\\"nonzero\\":4,\\"rule\\":\\"random\\",\\"seed\\":7}}","sift.version":"1"},'
        b'"bn.count":{"dtype":"I64","shape":[],"data_offsets":[0,8]},'
        b'"fc.bias":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]},'
        b'"fc.weight.bitmask":{"dtype":"U8","shape":[2],"data_offsets":[28,30]},'
        b'"fc.weight.values":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}'
    )
    header += b" " * (-len(header) % 8)
    data = bytes.fromhex("0300000000000000 0000c03f000000c00000008000008040 803f0040 0903")
    assert (tmp_path / "a").read_bytes() == len(header).to_bytes(8, "little") + header + data


def test_a_file_of_version_2_byte_for_byte(tmp_path):
    """Of 20 elements the second and the last are kept: 2 bytes as delta, 3 as bitmask."""
    w = np.zeros((4, 5), ml_dtypes.bfloat16)
    w[0, 1], w[3, 4] = 1, -0.0
    kept = np.zeros((4, 5), bool)
    kept[0, 1] = kept[3, 4] = True
    write(tmp_path / "a", {"w": w, "fc.weight": W}, {**MASKS, "w": Mask.from_bool(kept, rule="file")}, {})
    header = (
        b'{"__metadata__":{"format":"pt","sift.sparse":"{\\"fc.weight\\":{\\"format\\":\\"bitmask\\",'
        b'\\"shape\\":[2,5],\\"dtype\\":\\"F32\\",\\"nonzero\\":4,\\"rule\\":\\"random\\",\\"seed\\":7},'
        b'\\"w\\":{\\"format\\":\\"delta\\",\\"shape\\":[4,5],\\"dtype\\":\\"BF16\\",'
        b'\\"nonzero\\":2,\\"rule\\":\\"file\\",\\"seed\\":null}}","sift.version":"2"},'
        b'"fc.weight.bitmask":{"dtype":"U8","shape":[2],"data_offsets":[20,22]},'
        b'"fc.weight.values":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"w.delta":{"dtype":"U8","shape":[2],"data_offsets":[22,24]},'
        b'"w.values":{"dtype":"BF16","shape":[2],"data_offsets":[16,20]}}'
    )
    header += b" " * (-len(header) % 8)
    data = bytes.fromhex("0000c03f000000c00000008000008040 803f0080 0903 0111")
    assert (tmp_path / "a").read_bytes() == len(header).to_bytes(8, "little") + header + data
    with open_checkpoint(tmp_path / "a") as checkpoint:
        specs = {name: (spec.format, spec.nonzero, spec.stored_bytes) for name, spec in checkpoint.tensors.items()}
        assert specs == {"fc.weight": ("bitmask", 4, 18), "w": ("delta", 2, 6)}
        assert checkpoint.read("w").tobytes() == w.tobytes()
        assert np.array_equal(checkpoint.mask("w").to_bool(), kept)
        assert (checkpoint.mask("w").rule, checkpoint.mask("w").seed) == ("file", None)


@pytest.mark.parametrize("sparse_format", names("sift_cli.sparsity.formats"))
def test_a_mask_is_read_without_the_values(sparse_format, tmp_path, monkeypatch):
    write(tmp_path / "a", TENSORS, MASKS, {}, sparse_format=sparse_format)
    with open_checkpoint(tmp_path / "a") as checkpoint:
        real, read = ByteFile.read, []
        monkeypatch.setattr(ByteFile, "read", lambda file, *place: read.append(place[-1]) or real(file, *place))
        assert np.array_equal(checkpoint.mask("fc.weight").to_bool(), KEPT)
        assert read == [f"tensor 'fc.weight.{sparse_format}'"]


def test_round_trip(tmp_path):
    write(tmp_path / "a", TENSORS, MASKS, {"sift.plan": "{}"})
    with open_checkpoint(tmp_path / "a") as checkpoint:
        assert list(checkpoint.tensors) == ["bn.count", "fc.bias", "fc.weight"]
        for name, array in TENSORS.items():
            found = checkpoint.read(name)
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
        spec = checkpoint.tensors["fc.weight"]
        assert (spec.shape, spec.dtype, spec.format, spec.nonzero, spec.stored_bytes) == (
            (2, 5),
            "F32",
            "bitmask",
            4,
            18,
        )
        mask = checkpoint.mask("fc.weight")
        assert (mask.rule, mask.seed) == ("random", 7)
        assert np.array_equal(mask.to_bool(), KEPT)
        assert checkpoint.mask("fc.bias") is None


@pytest.mark.parametrize("sparse_format", names("sift_cli.sparsity.formats"))
@pytest.mark.parametrize("dtype", [dtype for name, dtype in DTYPES.items() if name != "C128"], ids=str)
def test_every_dtype_dense_and_sparse(dtype, sparse_format, tmp_path):
    dense = np.array([[1, 0, 1], [0, 0, 1]]).astype(dtype)
    mask = {"s": Mask.from_bool(dense != 0)}
    write(tmp_path / "a", {"d": dense, "s": dense}, mask, {}, sparse_format=sparse_format)
    with open_checkpoint(tmp_path / "a") as checkpoint:
        for name in "ds":
            assert checkpoint.read(name).dtype == dtype
            assert checkpoint.read(name).tobytes() == dense.tobytes()
    with safe_open(tmp_path / "a", "pt") as file:  # the library refuses a file with one type that it does not know
        assert file.get_tensor("d").reshape(-1).view(torch.uint8).numpy().tobytes() == dense.tobytes()


def test_the_safetensors_library_opens_it_as_plain_arrays(tmp_path):
    write(tmp_path / "a", TENSORS, MASKS, {})
    plain = safetensors.torch.load_file(tmp_path / "a")
    assert sorted(plain) == ["bn.count", "fc.bias", "fc.weight.bitmask", "fc.weight.values"]
    assert plain["fc.weight.values"].tolist() == [1.5, -2.0, 0.0, 4.0]
    assert plain["fc.weight.bitmask"].tolist() == [0b00001001, 0b00000011]
    assert plain["fc.bias"].tolist() == [1, 2]
    with safe_open(tmp_path / "a", "np") as file:
        assert file.metadata()["format"] == "pt"


def test_arrays_are_aligned_to_their_elements(tmp_path):
    tensors = {
        n: np.ones(k, d)
        for n, k, d in [("a", 3, np.uint8), ("b", 1, np.float16), ("c", 3, np.float32), ("d", 1, np.int64)]
    }
    write(tmp_path / "a", tensors, {}, {})
    raw = (tmp_path / "a").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    for name, array in tensors.items():
        assert json.loads(raw[8 : 8 + length])[name]["data_offsets"][0] % array.itemsize == 0


def test_the_decoder_in_the_docs_decodes_it(tmp_path):
    (decoder,) = [block.partition("```")[0] for block in PAGE.split("```python\n")[1:]]
    assert len(decoder.split("def ")[1].strip().splitlines()) <= 10
    scope: dict = {}
    exec(decoder, scope)
    empty = {"none": np.zeros((3, 0), np.float32), "zero": np.zeros((4, 4), np.float16)}
    far = np.zeros((30, 40), np.int8)
    far.reshape(-1)[[2, 3, 300, 555, 1199]] = [1, 2, 3, 4, 5]
    kept_zero = np.zeros(50, ml_dtypes.bfloat16)
    kept_zero[[7, 40]] = [-0.0, np.nan]
    tensors = {**TENSORS, **empty, "far": far, "kept_zero": kept_zero}
    masks = {**MASKS, **{name: Mask.from_bool(array != 0) for name, array in {**empty, "far": far}.items()}}
    masks["kept_zero"] = Mask.from_bool(np.isin(np.arange(50), [7, 40]))
    write(tmp_path / "a", tensors, masks, {})
    with open_checkpoint(tmp_path / "a") as checkpoint:
        assert {spec.format for spec in checkpoint.tensors.values()} == {"dense", "bitmask", "delta"}
    decoded = scope["load_dense"](tmp_path / "a")
    assert {k: (v.shape, v.tobytes()) for k, v in decoded.items()} == {
        k: (v.shape, v.tobytes()) for k, v in tensors.items()
    }


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("sparse_format", names("sift_cli.sparsity.formats"))
def test_the_decoder_in_the_docs_decodes_float8_by_its_bytes(dtype, sparse_format, tmp_path):
    scope: dict = {}
    exec(PAGE.split("```python\n")[1].partition("```")[0], scope)
    w = torch.zeros(300).to(dtype)
    w.view(torch.uint8)[[0, 7, 280]] = torch.tensor([0x80, 0x7F, 0x41], dtype=torch.uint8)  # -0 and NaN among them
    mask = Mask.from_bool(np.isin(np.arange(300), [0, 7, 280]))
    write(tmp_path / "a", {"w": to_numpy(w)}, {"w": mask}, {}, sparse_format=sparse_format)
    with safe_open(tmp_path / "a", "pt") as file:
        entry = json.loads(file.metadata()["sift.sparse"])["w"]
        values, index = file.get_tensor("w.values"), file.get_tensor(f"w.{sparse_format}")
    assert values.dtype == dtype
    decoded = scope["decode"](entry, index.numpy(), values.view(torch.uint8).numpy())
    assert decoded.tolist() == w.view(torch.uint8).tolist()


def test_views_of_one_storage_are_written_each_as_a_copy(tmp_path):
    """The safetensors library refuses them: it cannot say which is the whole."""
    base = torch.arange(100.0)
    views = {"whole": base[0:100], "begin": base[0:10], "middle": base[50:60], "later": base[70:80]}
    with pytest.raises(RuntimeError, match="share memory"):
        safetensors.torch.save_file(views, tmp_path / "no")
    torch.save(views, tmp_path / "x")
    with open_checkpoint(tmp_path / "x") as checkpoint:
        write(tmp_path / "a", {name: checkpoint.read(name) for name in checkpoint.tensors}, {}, {})
    found = safetensors.torch.load_file(tmp_path / "a")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: v.tolist() for n, v in views.items()}
    with open_checkpoint(tmp_path / "a") as checkpoint:
        assert sum(spec.stored_bytes for spec in checkpoint.tensors.values()) == 4 * (100 + 3 * 10)


SIZES = {
    np.float32: {0.5: 0.531, 0.25: 0.281, 0.1: 0.125, 0.05: 0.0625, 0.01: 0.0127},
    ml_dtypes.bfloat16: {0.5: 0.563, 0.25: 0.313, 0.1: 0.150, 0.05: 0.0750, 0.01: 0.0154},
    ml_dtypes.float8_e4m3fn: {0.5: 0.625, 0.25: 0.375, 0.1: 0.200, 0.05: 0.1000, 0.01: 0.0208},
}


@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("density", SIZES[np.float32])
def test_size_is_what_the_docs_say(dtype, density, tmp_path):
    expected = SIZES[dtype][density]
    kept = np.zeros(576 * 1000, bool)
    kept[np.random.default_rng(0).permutation(kept.size)[: round(density * kept.size)]] = True
    array = kept.astype(dtype).reshape(1000, 576)
    write(tmp_path / "a", {"w": array}, {"w": Mask.from_bool(array != 0)}, {})
    with open_checkpoint(tmp_path / "a") as checkpoint:
        stored = checkpoint.tensors["w"].stored_bytes
    assert 200 < (tmp_path / "a").stat().st_size - stored < 400  # the header
    assert stored == pytest.approx(expected * array.nbytes, rel=0.01)
    assert f" {expected:.4f} " in PAGE or f" {expected:.3f} " in PAGE


def test_the_same_bytes_in_every_process_and_order(tmp_path):
    """Python's string hashes and the mapping's own order differ between the runs; the file does not."""
    code = """
import hashlib, sys
from pathlib import Path
import numpy as np
from sift_cli.checkpoint.artifact import write
from sift_cli.core.masks import Mask
names = list({f"layer{i}.weight" for i in range(50)})
tensors = {name: np.eye(4, dtype=np.float32) for name in names}
masks = {name: Mask.from_bool(np.eye(4, dtype=bool)) for name in set(names[:25] + names[25:]) if "3" not in name}
write(Path(sys.argv[1]), tensors, masks, {key: "v" for key in {f"key{i}" for i in range(20)}})
print(hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest(), names[0])
"""
    lines = []
    for seed in ("1", "2", "3"):
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        lines.append(run.stdout.split())
    assert len({first for _, first in lines}) > 1, "the runs did not differ"
    assert len({digest for digest, _ in lines}) == 1


def test_reserved_metadata_are_replaced(tmp_path):
    write(tmp_path / "a", TENSORS, MASKS, {"sift.sparse": "old", "sift.version": "0", "format": "tf", "mine": "é"})
    with open_checkpoint(tmp_path / "a") as checkpoint:
        assert checkpoint.metadata["format"] == "pt"
        assert checkpoint.metadata["mine"] == "é"
        assert checkpoint.mask("fc.weight") is not None


def test_strided_arrays_are_written_in_row_major_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write(tmp_path / "a", {"w": array}, {}, {})
    with open_checkpoint(tmp_path / "a") as checkpoint:
        assert checkpoint.read("w").tolist() == [[0, 3], [1, 4], [2, 5]]


MASK = MASKS["fc.weight"]
REFUSED = {
    "a part's name is taken": ({"w": W, "w.values": W}, {"w": MASK}, {}, "needs the name 'w.values', which is taken"),
    "a sparse tensor has a part's name": ({"w": W, "w.bitmask": W}, {"w": MASK, "w.bitmask": MASK}, {}, "is taken"),
    "a mask of nothing": ({}, {"w": MASK}, {}, "no such tensor"),
    "a mask of another shape": ({"w": W.T}, {"w": MASK}, {}, "cannot store 'w' under its mask"),
    "a masked value": ({"w": W + 1}, {"w": MASK}, {}, "6 masked weights are not 0"),
    "an unknown dtype": ({"w": np.array(["a"])}, {}, {}, "w is <U1, which safetensors cannot hold"),
    "complex128, which the library refuses": ({"w": W.astype(complex)}, {}, {}, "w is complex128, which safetensors"),
    "complex128 under a mask": ({"w": W.astype(complex)}, {"w": MASK}, {}, "w.values is complex128, which safetensors"),
    "an object": ({"w": np.array([None])}, {}, {}, "w is object"),
    "the format's own name": ({"__metadata__": W}, {}, {}, "__metadata__"),
    "metadata of numbers": ({"w": W}, {}, {"a": 1}, "names and metadata are strings"),
    "a name that delta needs": (
        {"w": np.eye(20), "w.delta": W},
        {"w": Mask.from_bool(np.eye(20) != 0)},
        {},
        "needs the name 'w.delta'",
    ),
    "half a surrogate pair": ({"\ud800": W}, {}, {}, "is not Unicode text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stored_is_refused_before_a_byte_is_written(case, tmp_path):
    tensors, masks, metadata, why = REFUSED[case]
    with pytest.raises(ExportError) as raised:
        write(tmp_path / "a", tensors, masks, metadata)
    assert why in str(raised.value)
    assert not (tmp_path / "a").exists()


def test_an_empty_artifact(tmp_path):
    write(tmp_path / "a", {}, {}, {})
    text = b'{"__metadata__":{"format":"pt","sift.sparse":"{}","sift.version":"1"}}'
    expected = (72).to_bytes(8, "little") + text.ljust(72)
    assert (tmp_path / "a").read_bytes() == expected
