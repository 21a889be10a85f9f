"""Files of a few megabytes that ask for a hundred times as much memory, by what they consist of."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks.mutations import zipped
from attacks.promise import keep

from sift_cli.checkpoint import _protobuf, open_checkpoint
from sift_cli.checkpoint._json import loads

MEGABYTES = 5 * 10**6


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def pickled(data: bytes) -> bytes:
    return zipped([("x/data.pkl", zipfile.ZIP_STORED, data), ("x/data/0", zipfile.ZIP_STORED, bytes(16))])


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def model(graph: bytes, more: bytes = b"") -> bytes:
    return b"\x08\x0a" + field(7, graph) + more + field(8, b"\x10\x0d")


def directory(entries: int) -> bytes:
    """A zip file of nothing but entries of its directory, all of the same record."""
    record = b"PK\x03\x04" + struct.pack("<5H3I2H", 20, 0, 0, 0, 0, 0, 0, 0, 8, 0) + b"x/000000"
    place = struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    listed = b"".join(b"PK\x01\x02" + place + b"x/%06x" % number for number in range(entries))
    end = struct.pack("<4H2IH", 0, 0, entries % 2**16, entries % 2**16, len(listed), len(record), 0)
    return record + listed + b"PK\x05\x06" + end


STRUCTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "lists in JSON": (lambda: header(b'{"a":[' + b"[]," * (MEGABYTES // 3) + b"[]]}"), "more than 1,578,125 values"),
    "objects in JSON": (lambda: header(b'{"a":[' + b"{}," * (MEGABYTES // 3) + b"{}]}"), "values"),
    "metadata": (
        lambda: header(b'{"__metadata__":{' + b",".join(b'"%x":""' % n for n in range(MEGABYTES // 5)) + b"}}"),
        "values",
    ),
    "lists in a pickle": (lambda: pickled(b"\x80\x02(" + b"]" * MEGABYTES + b"l."), "more than 1,578,128 instructions"),
    "mappings in a pickle": (lambda: pickled(b"\x80\x02(" + b"}" * MEGABYTES + b"l."), "instructions"),
    "marks in a pickle": (lambda: pickled(b"\x80\x02" + b"(" * MEGABYTES + b"."), "instructions"),
    "a memo": (lambda: pickled(b"\x80\x04(" + b"]\x94" * (MEGABYTES // 2) + b"l."), "instructions"),
    "names of one list": (lambda: pickled(b"\x80\x04]\x94(" + b"h\x00" * (MEGABYTES // 2) + b"l."), "instructions"),
    "nodes": (lambda: model(b"\x0a\x00" * (MEGABYTES // 2)), "more parts than a model has"),
    "attributes": (lambda: model(field(1, b"\x2a\x00" * (MEGABYTES // 2))), "more parts"),
    "initializers": (
        lambda: model(b"".join(field(5, b"\x08\x00\x10\x02" + field(8, b"%x" % n)) for n in range(MEGABYTES // 14))),
        "more parts",
    ),
    "properties": (
        lambda: model(b"", b"".join(field(14, field(1, b"%x" % n)) for n in range(MEGABYTES // 9))),
        "parts",
    ),
    "integers of an attribute": (lambda: model(field(1, field(5, field(8, b"\x01" * 6 * MEGABYTES)))), "more parts"),
    "a zip directory": (lambda: directory(300_000), "bytes, and"),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_that_take_a_hundred_times_their_bytes_are_refused(structure: str, tmp_path: Path) -> None:
    make, why = STRUCTURES[structure]
    path = tmp_path / "x"
    path.write_bytes(make())
    error = keep(path)
    assert error is not None
    assert why in str(error)


def test_the_zip_directory_that_the_lie_is_made_from_is_right(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(directory(3))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["x/000000", "x/000001", "x/000002"]


def test_what_honest_files_need_is_allowed(tmp_path: Path) -> None:
    """50,000 tensors, as mixtures of experts have them, without a value."""
    found = [b"model.layers.%d.mlp.experts.0.down_proj.weight" % number for number in range(50_000)]
    entries = (b'"%s":{"dtype":"F32","shape":[0,0],"data_offsets":[0,0]}' % name for name in found)
    tensors = (field(5, b"\x08\x00\x10\x01" + field(8, name)) for name in found)
    for data in (header(b"{" + b",".join(entries) + b"}"), model(b"".join(tensors))):
        (tmp_path / "x").write_bytes(data)
        with open_checkpoint(tmp_path / "x") as checkpoint:
            assert list(checkpoint.tensors) == [name.decode() for name in found]


def test_the_bound_of_json_counts_values() -> None:
    assert loads(b'{"a": [1, 2]}', most=4) == {"a": [1, 2]}  # { : [ ,
    with pytest.raises(ValueError, match="more than 3 values"):
        loads(b'{"a": [1, 2]}', most=3)


def test_the_walk_over_a_model_costs_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of two inputs in a graph: two messages, and tags of graph, node, inputs, version and opset's version."""
    import onnx

    data = model(field(1, field(1, b"a") + field(1, b"b")))
    used = 3 * _protobuf._MESSAGE + 7 * _protobuf._FIELD  # the opset is a message too
    monkeypatch.setattr(_protobuf, "_SLACK", used - len(data))
    _protobuf.check(data, onnx.ModelProto.DESCRIPTOR)
    monkeypatch.setattr(_protobuf, "_SLACK", used - len(data) - 1)
    with pytest.raises(ValueError, match="more parts"):
        _protobuf.check(data, onnx.ModelProto.DESCRIPTOR)
