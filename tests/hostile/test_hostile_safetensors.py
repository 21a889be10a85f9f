"""safetensors headers, byte by byte: each lie that a header can tell, and the sentence that it earns."""

import json
import struct

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open

from sift_cli.checkpoint import open_checkpoint
from sift_cli.errors import CheckpointError, Malformed


def file_of(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def f32(count: int, begin: int = 0, **changes: object) -> dict:
    return {"dtype": "F32", "shape": [count], "data_offsets": [begin, begin + 4 * count], **changes}


LIES = {
    "length beyond the file": (file_of({"a": f32(1)}, b"\0" * 4, length=2**62), "announces 4611686018427387904 bytes"),
    "length of the largest integer": (file_of({"a": f32(1)}, b"\0" * 4, length=2**64 - 1), "announces"),
    "length one too long": (file_of({"a": f32(1)}, b"", length=57), "damaged at the header"),
    "length of nothing": (file_of({"a": f32(1)}, b"\0" * 4, length=0), "damaged at the header"),
    "no JSON": (file_of(b"{not json"), "the header"),
    "no object": (file_of(b"{}")[:8] + b"{}" + b"x", "file at"),
    "not UTF-8": (file_of(b'{"\xff\xfe": {}}'), "not UTF-8"),
    "half a surrogate pair": (file_of(b'{"\\ud800": {}}'), "surrogate"),
    "nested a million deep": (file_of(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"), "nested too deeply"),
    "NaN": (file_of(b'{"a": NaN}'), "NaN is not JSON"),
    "a number of 5000 digits": (file_of(b'{"a": ' + b"9" * 5000 + b"}"), "the header"),
    "a name twice": (
        file_of(b'{"a":' + json.dumps(f32(1)).encode() + b',"a":' + json.dumps(f32(1)).encode() + b"}", b"\0" * 4),
        "the key 'a' is there twice",
    ),
    "a field twice": (file_of(b'{"a": {"dtype": "F32", "dtype": "F32"}}'), "twice"),
    "no dtype": (file_of({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4), "not made of"),
    "a field too many": (file_of({"a": f32(1, extra=1)}, b"\0" * 4), "not made of"),
    "entry is a list": (file_of({"a": [1]}, b"\0" * 4), "not made of"),
    "dtype is a list": (file_of({"a": f32(1, dtype=["F32"])}, b"\0" * 4), "dtype is not a string"),
    "unknown dtype": (file_of({"a": f32(1, dtype="F4")}, b"\0" * 4), "dtype F4, which sift cannot hold"),
    "dtype that only numpy has": (file_of({"a": f32(1, dtype="C128")}, b"\0" * 16), "dtype C128, which sift cannot"),
    "negative dimension": (file_of({"a": f32(1, shape=[-1])}, b"\0" * 4), "not a shape"),
    "dimension true": (file_of({"a": f32(1, shape=[True])}, b"\0" * 4), "not a shape"),
    "dimension 1.0": (file_of({"a": f32(1, shape=[1.0])}, b"\0" * 4), "not a shape"),
    "shape is a string": (file_of({"a": f32(1, shape="1")}, b"\0" * 4), "not a shape"),
    "shape is null": (file_of({"a": f32(1, shape=None)}, b"\0" * 4), "not a shape"),
    "65 dimensions": (file_of({"a": f32(1, shape=[1] * 65)}, b"\0" * 4), "65 dimensions"),
    "product overflows 64 bits to 1": (file_of({"a": f32(1, shape=[2**32 + 1] * 3)}, b"\0" * 4), "2^63"),
    "nothing of too much": (file_of({"a": f32(0, shape=[0, 2**62, 2**62])}), "2^63"),
    "shape and offsets disagree": (
        file_of({"a": f32(1, shape=[2])}, b"\0" * 4),
        "takes 8 bytes, and its offsets span 4",
    ),
    "offsets backwards": (file_of({"a": f32(1, data_offsets=[4, 0])}, b"\0" * 4), "offsets span -4"),
    "offset negative": (file_of({"a": f32(1, data_offsets=[-4, 0])}, b"\0" * 4), "non-negative"),
    "offsets of one": (file_of({"a": f32(1, data_offsets=[4])}, b"\0" * 4), "two non-negative integers"),
    "beyond the end": (file_of({"a": f32(2)}, b"\0" * 4), "the tensors end at"),
    "bytes of nobody after": (file_of({"a": f32(1)}, b"\0" * 8), "the tensors end at"),
    "bytes of nobody before": (file_of({"a": f32(1, 4)}, b"\0" * 8), "its bytes begin at"),
    "a hole": (file_of({"a": f32(1), "b": f32(1, 8)}, b"\0" * 12), "its bytes begin at"),
    "overlap": (file_of({"a": f32(2), "b": f32(1, 4)}, b"\0" * 8), "its bytes begin at"),
    "two tensors on the same bytes": (file_of({"a": f32(2), "b": f32(2)}, b"\0" * 8), "its bytes begin at"),
    "metadata is a list": (file_of({"__metadata__": []}), "not a map of strings"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "not a map of strings"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(lie, tmp_path):
    data, why = LIES[lie]
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(path)
    assert why in str(raised.value)


def test_the_safetensors_library_refuses_the_same_files(tmp_path):
    """An independent implementation: what it refuses, sift refuses; sift is stricter in the four places listed here."""
    path = tmp_path / "x"
    accepted = set()
    for lie, (data, _) in LIES.items():
        path.write_bytes(data)
        try:
            with safe_open(path, "np") as file:
                file.keys()
            accepted.add(lie)
        except SafetensorError:
            pass
    assert accepted == {"a name twice", "a field too many", "65 dimensions", "nothing of too much"}


def test_a_bool_is_0_or_1(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(file_of({"a": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\1\2"))
    with open_checkpoint(path) as checkpoint, pytest.raises(Malformed, match="neither 0 nor 1"):
        checkpoint.read("a")


SPARSE = {"format": "bitmask", "shape": [10], "dtype": "F32", "nonzero": 3, "rule": "random", "seed": 1}
BITS, VALUES = b"\x0b\x00", np.float32([1, 2, 3]).tobytes()


def artifact(
    entry: object = SPARSE, *, version: str | None = "1", bits: bytes = BITS, values: int = 3, **more: object
) -> bytes:
    metadata = {} if version is None else {"sift.version": version}
    metadata["sift.sparse"] = entry if isinstance(entry, str) else json.dumps({"w": entry})
    header = {
        "__metadata__": metadata,
        "w.values": f32(values),
        "w.bitmask": {"dtype": "U8", "shape": [len(bits)], "data_offsets": [4 * values, 4 * values + len(bits)]},
        **more,
    }
    return file_of(
        {k: v for k, v in header.items() if v is not None}, np.arange(1, values + 1, dtype="<f4").tobytes() + bits
    )


SPARSE_LIES = {
    "another version": (artifact(version="3"), "sift.version is '3', and this sift reads '1' and '2'"),
    "version 02": (artifact(version="02"), "sift.version is '02'"),
    "a format before its version": (
        artifact({**SPARSE, "format": "delta"}),
        "the format 'delta' came with version 2, and the file has 1",
    ),
    "no version": (artifact(version=None), "sift.version is 'None'"),
    "no JSON": (artifact("{"), "metadata"),
    "a JSON list": (artifact("[]"), "not a JSON object"),
    "JSON nested too deeply": (artifact('{"w":' + "[" * 10**5 + "]" * 10**5 + "}"), "nested too deeply"),
    "entry is a list": (artifact([]), "not a JSON object"),
    "unknown format": (artifact({**SPARSE, "format": "nope"}), "unknown sparse format 'nope'"),
    "format of a path": (artifact({**SPARSE, "format": "../../os"}), "unknown sparse format"),
    "format is a number": (artifact({**SPARSE, "format": 1}), "'w' in sift.sparse"),
    "a field missing": (artifact({k: v for k, v in SPARSE.items() if k != "rule"}), "rule"),
    "a field too many": (artifact({**SPARSE, "extra": 1}), "extra"),
    "unknown dtype": (artifact({**SPARSE, "dtype": "F4"}), "F4"),
    "another dtype": (artifact({**SPARSE, "dtype": "F16"}), "it is F32 [3] and not F16 [3]"),
    "shape negative": (artifact({**SPARSE, "shape": [-10]}), "not a shape"),
    "shape of 2^80": (artifact({**SPARSE, "shape": [2**40, 2**40]}), "2^63"),
    "shape too large": (artifact({**SPARSE, "shape": [100]}), "it is U8 [2] and not U8 [13]"),
    "shape too small": (artifact({**SPARSE, "shape": [8]}), "it is U8 [2] and not U8 [1]"),
    "nonzero too many": (artifact({**SPARSE, "nonzero": 11}), "cannot keep 11 weights"),
    "nonzero negative": (artifact({**SPARSE, "nonzero": -1}), "cannot keep -1 weights"),
    "nonzero true": (artifact({**SPARSE, "nonzero": True}), "cannot keep True weights"),
    "nonzero is not the values": (artifact({**SPARSE, "nonzero": 4}), "it is F32 [3] and not F32 [4]"),
    "rule is a number": (artifact({**SPARSE, "rule": 1}), "rule"),
    "seed is a string": (artifact({**SPARSE, "seed": "1"}), "seed"),
    "stored dense too": (artifact(w=f32(0, 14)), "both dense and sparse"),
    "part missing": (
        file_of({"__metadata__": {"sift.version": "1", "sift.sparse": json.dumps({"w": SPARSE})}}),
        "missing",
    ),
}


#: Elements 2, 3 and 300 of 600.
DELTA = {"format": "delta", "shape": [600], "dtype": "I8", "nonzero": 3, "rule": "random", "seed": 1}
DELTAS = bytes([2, 0, 255, 41, 255])


def delta_file(
    *, index: bytes = DELTAS, values: bytes = b"\1\2\3", dtype: str = "U8", more: dict | None = None,
    version: str = "2", data: bytes | None = None, **changes: object,
) -> bytes:  # fmt: skip
    """A file with the one tensor "w"; ``dtype`` is that of its index, ``changes`` are made in its metadata."""
    header = {
        "__metadata__": {"sift.version": version, "sift.sparse": json.dumps({"w": {**DELTA, **changes}})},
        "w.delta": {"dtype": dtype, "shape": [len(index)], "data_offsets": [0, len(index)]},
        "w.values": {"dtype": "I8", "shape": [len(values)], "data_offsets": [len(index), len(index) + len(values)]},
        **(more or {}),
    }
    return file_of(header, index + values if data is None else data)


def vector(begin: int, end: int, dtype: str = "U8") -> dict:
    return {"dtype": dtype, "shape": [end - begin], "data_offsets": [begin, end]}


SPARSE_LIES |= {
    "delta: unknown version": (delta_file(version="4"), "sift.version is '4'"),
    "delta: unknown format": (delta_file(format="deltas"), "unknown sparse format 'deltas' (known: bitmask, delta)"),
    "delta: another dtype of values": (delta_file(more={"w.values": vector(5, 8)}), "it is U8 [3] and not I8 [3]"),
    "delta: another dtype of the index": (delta_file(dtype="I8"), "it is I8 [5] and not U8 [3 to 5]"),
    "delta: an index of two dimensions": (
        delta_file(more={"w.delta": {**vector(0, 5), "shape": [1, 5]}}), "it is U8 [1, 5] and not U8 [3 to 5]",
    ),
    "delta: index too short for what is kept": (delta_file(index=b"\2\0"), "it is U8 [2] and not U8 [3 to 5]"),
    "delta: index too long": (delta_file(index=bytes(6)), "it is U8 [6] and not U8 [3 to 5]"),
    "delta: index too short for the shape": (
        delta_file(index=b"", values=b"", shape=[2**62], nonzero=0), "it is U8 [0] and not U8 [18085043209519168]",
    ),
    "delta: fewer values than it keeps": (delta_file(values=b"\1\2"), "it is I8 [2] and not I8 [3]"),
    "delta: more kept than there are": (delta_file(shape=[2]), "it cannot keep 3 weights"),
    "delta: a shape of another size": (delta_file(shape=[7000]), "it is U8 [5] and not U8 [27 to 30]"),
    "delta: a shape of 2^63 bytes": (delta_file(shape=[2**63]), "2^63"),
    "delta: truncated": (delta_file(data=DELTAS + b"\1\2"), "the file at"),
    "delta: parts that overlap": (delta_file(more={"w.values": vector(3, 6, "I8")}), "its bytes begin at"),
    "delta: parts in one place": (
        delta_file(more={"w.delta": vector(0, 3), "w.values": vector(0, 3, "I8")}), "its bytes begin at",
    ),
    "delta: without its index": (
        file_of({
            "__metadata__": {"sift.version": "2", "sift.sparse": json.dumps({"w": DELTA})},
            "w.values": vector(0, 3, "I8"),
        }, b"\1\2\3"),
        "its part 'w.delta' is missing",
    ),
    "delta: with a bitmask in its place": (
        file_of({
            "__metadata__": {"sift.version": "2", "sift.sparse": json.dumps({"w": {**DELTA, "format": "bitmask"}})},
            "w.delta": vector(0, 5), "w.values": vector(5, 8, "I8"),
        }, DELTAS + b"\1\2\3"),
        "its part 'w.bitmask' is missing",
    ),
    "delta: stored dense too": (delta_file(more={"w": vector(8, 8)}), "both dense and sparse"),
    "delta: a tensor that is part of another": (
        delta_file(more={"__metadata__": {"sift.version": "2", "sift.sparse": json.dumps({
            "w": DELTA, "w.values": {**DELTA, "shape": [0], "nonzero": 0},
        })}}),
        "tensor 'w.values': it is stored both dense and sparse",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", SPARSE_LIES)
def test_metadata_that_lie_are_refused_before_anything_is_read(lie, tmp_path):
    data, why = SPARSE_LIES[lie]
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(Malformed) as raised:
        open_checkpoint(path)
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("bits", "why"), [(b"\x0f\x00", "keeps 4 weights"), (b"\x03\x00", "keeps 2"), (b"\x03\x04", "after the last")]
)
def test_a_bitmask_that_lies_is_refused_when_it_is_read(bits, why, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(artifact(bits=bits))
    with open_checkpoint(path) as checkpoint:
        for ask in (checkpoint.read, checkpoint.mask):
            with pytest.raises(Malformed, match=why):
                ask("w")


@pytest.mark.parametrize(
    ("index", "why"),
    [
        (bytes([2, 0, 255, 41]), "lead to element 301 of 600"),
        (bytes([2, 0, 254, 254]), "keep 4 weights, and there are 3 values"),
        (bytes([2, 0, 255, 255]), "keep 2 weights, and there are 3 values"),
        (bytes([254, 254, 254]), "lead to element 765 of 600"),
        (bytes([2, 0, 255, 254, 255]), "lead to element 769 of 600"),
    ],
)
def test_deltas_that_lie_are_refused_when_they_are_read(index, why, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(delta_file(index=index))
    with open_checkpoint(path) as checkpoint:
        for ask in (checkpoint.read, checkpoint.mask):
            with pytest.raises(Malformed, match=f"damaged at tensor 'w': the deltas {why}"):
                ask("w")


def test_the_deltas_that_the_lies_are_made_from_are_right(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(delta_file())
    with open_checkpoint(path) as checkpoint:
        assert np.flatnonzero(checkpoint.read("w")).tolist() == [2, 3, 300]
        assert checkpoint.read("w")[[2, 3, 300]].tolist() == [1, 2, 3]
        assert checkpoint.mask("w").nonzero == checkpoint.tensors["w"].nonzero == 3


def test_the_artifact_that_the_lies_are_made_from_is_right(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(artifact())
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 2, 0, 3, 0, 0, 0, 0, 0, 0]
        mask = checkpoint.mask("w")
        assert (mask.rule, mask.seed, mask.nonzero) == ("random", 1, 3)
