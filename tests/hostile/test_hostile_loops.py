"""Files of a megabyte whose parts refer to one another so that a naive look at them takes hours."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from attacks.mutations import zipped
from attacks.promise import keep
from attacks.seeds import onnx_model
from onnx import TensorProto, helper, numpy_helper

COUNT = 60_000
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQK\0(K\2K\2t(K\2K\1t"
    b"\x89ccollections\nOrderedDict\n)RtR"
)


def torch_file(data: bytes, **more: bytes) -> bytes:
    records = {"x/data.pkl": data, "x/data/0": bytes(16), **{f"x/{name}": content for name, content in more.items()}}
    stored, deflated = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    return zipped([(name, deflated if name.endswith(".py") else stored, one) for name, one in records.items()])


def keys(value: bytes) -> bytes:
    """The pickle of a mapping that has one value under many keys."""
    return b"}(" + b"".join(b"J" + struct.pack("<i", number) + value for number in range(COUNT)) + b"u"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def mappings() -> bytes:
    """A mapping with another a thousand times in it, in which is another a thousand times, beside a tensor."""
    return torch_file(
        b"\x80\x02" + keys(b"N") + b"q\x010" + keys(b"h\x01") + b"q\x020" + keys(b"h\x02")
        + text("model") + b"}" + text("w") + TENSOR + b"ss."
    )  # fmt: skip


def names_of_mappings() -> bytes:
    named = b"".join(text(f"{number:x}") + b"h\x01" for number in range(COUNT))
    return torch_file(b"\x80\x02" + keys(b"N") + b"q\x010}(" + named + b"u.")


def classes() -> bytes:
    """Code in which 60,000 lists of parameters begin and none ends."""
    begins = b"class M(Module):\n  __parameters__ = [\n" * COUNT
    module = b"\x80\x02c__torch__\nM\n)\x81}" + text("w") + TENSOR + b"sb."
    return torch_file(module, **{"constants.pkl": b"\x80\x02).", "code/__torch__.py": begins})


def modules() -> bytes:
    """A module with 60,000 attributes, 60,000 times in another."""
    children = b"".join(text(f"{number:x}") + b"h\x01" for number in range(COUNT))
    data = b"\x80\x02c__torch__\nM\nq\x000h\x00)\x81" + keys(b"N") + b"bq\x010h\x00)\x81}(" + children + b"ub."
    return torch_file(data, **{"constants.pkl": b"\x80\x02)."})


def long_names() -> bytes:
    """150 modules in one another, each under a name of 100,000 letters, and tensors in each."""
    name = text("x" * 100_000)
    data = b"\x80\x02" + name + b"q\x020c__torch__\nM\nq\x000h\x00)\x81}bq\x01"
    for _ in range(150):
        data += b"0h\x00)\x81}h\x02h\x01sbq\x01"
    return torch_file(data + b".", **{"constants.pkl": b"\x80\x02)."})


def key_of_10_000_digits() -> bytes:
    number = (10**10_000).to_bytes(4200, "little")
    key = b"\x8b" + struct.pack("<I", len(number)) + number
    data = b"\x80\x02c__torch__\nM\n)\x81}(" + key + TENSOR + text("w") + TENSOR + b"ub."
    return torch_file(data, **{"constants.pkl": b"\x80\x02)."})


def dots() -> bytes:
    """Two names of 500,000 parts, of which the first is not the same."""
    entries = b",".join(
        b'"' + first + b"." * 500_000 + b'":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' for first in (b"a", b"b")
    )
    return struct.pack("<Q", len(entries) + 2) + b"{" + entries + b"}"


def inputs() -> bytes:
    """A node that takes a bitmask a hundred thousand times before its values."""
    parts = {"w.bitmask": np.array([1], np.uint8), "w.values": np.ones(1, np.float32)}
    taken = [*["w.bitmask"] * COUNT, "w.values"]
    node = helper.make_node("SparseLinear", taken, ["y"], domain="sift", weight_shape=[2, 4])
    model = onnx_model(*(numpy_helper.from_array(array, name) for name, array in parts.items()), nodes=[node])
    return model.SerializeToString()


def strings() -> bytes:
    """60,000 tensors of strings, which sift leaves out."""
    return onnx_model(
        *(TensorProto(name=f"{number:x}", data_type=TensorProto.STRING) for number in range(COUNT))
    ).SerializeToString()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (mappings, None),
        (names_of_mappings, "it holds no tensors by name"),
        (classes, "it holds no parameters and no buffers"),
        (modules, "they contain one another without end"),
        (long_names, "they contain one another without end"),
        (key_of_10_000_digits, "it holds no parameters and no buffers"),
        (dots, None),
        (inputs, None),
        (strings, None),
    ],
)
def test_what_would_take_hours_takes_seconds(make: Callable[[], bytes], why: str | None, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(make())
    error = keep(path)
    assert (error is None) if why is None else (why in str(error))
