"""sift's artifact: what it looks like to others, that it is the same in every process, and what its writer refuses."""

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
from safetensors import safe_open

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.artifact import write
from sift_cli.core.masks import Mask, MaskSet
from sift_cli.core.tensors import DTYPES
from sift_cli.errors import ExportError

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


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype_dense_and_sparse(dtype, tmp_path):
    dense = np.array([[1, 0, 1], [0, 0, 1]]).astype(dtype)
    write(tmp_path / "a", {"d": dense, "s": dense}, {"s": Mask.from_bool(dense != 0)}, {})
    with open_checkpoint(tmp_path / "a") as checkpoint:
        for name in "ds":
            assert checkpoint.read(name).dtype == dtype
            assert checkpoint.read(name).tobytes() == dense.tobytes()


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
    page = (Path(__file__).parents[2] / "docs" / "sparse-formats.md").read_text()
    (decoder,) = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    assert len(decoder.strip().splitlines()) <= 15
    scope: dict = {}
    exec(decoder, scope)
    empty = {"none": np.zeros((3, 0), np.float32), "zero": np.zeros((4, 4), np.float16)}
    tensors = {**TENSORS, **empty, "fc.bias": np.ones(2, np.float32)}
    masks = {**MASKS, **{name: Mask.from_bool(array != 0) for name, array in empty.items()}}
    write(tmp_path / "a", tensors, masks, {})
    decoded = scope["load_dense"](tmp_path / "a")
    assert {k: (v.shape, v.tobytes()) for k, v in decoded.items()} == {
        k: (v.shape, v.tobytes()) for k, v in tensors.items()
    }


@pytest.mark.parametrize(("density", "expected"), [(0.5, 0.531), (0.25, 0.281), (0.1, 0.131), (0.05, 0.081)])
def test_size_is_what_the_docs_say(density, expected, tmp_path):
    rng = np.random.default_rng(0)
    count = 576 * 1000
    kept = np.zeros(count, bool)
    kept[rng.choice(count, int(density * count), replace=False)] = True
    array = np.where(kept, rng.normal(size=count), 0).astype(np.float32).reshape(1000, 576)
    write(tmp_path / "a", {"w": array}, {"w": Mask.from_bool(kept.reshape(1000, 576))}, {})
    assert (tmp_path / "a").stat().st_size / array.nbytes == pytest.approx(expected, abs=0.0006)


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
    "a mask of another shape": ({"w": W.T}, {"w": MASK}, {}, "cannot store 'w' as bitmask"),
    "a masked value": ({"w": W + 1}, {"w": MASK}, {}, "6 masked weights are not 0"),
    "an unknown dtype": ({"w": np.array(["a"])}, {}, {}, "w is <U1, which safetensors cannot hold"),
    "an object": ({"w": np.array([None])}, {}, {}, "w is object"),
    "the format's own name": ({"__metadata__": W}, {}, {}, "__metadata__"),
    "metadata of numbers": ({"w": W}, {}, {"a": 1}, "names and metadata are strings"),
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
