"""Files that PyTorch, transformers or onnxruntime take for another model than sift did: refused, or read as they do.

Each of them is given to the library first, which says what it makes of it.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from attacks.promise import keep
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from sift_cli.checkpoint import open_checkpoint
from sift_cli.errors import CheckpointError, Malformed

ONE, OTHER = np.float32([1, 2, 3, 4]), np.float32([5, 6, 7, 8])
FIRST, SECOND = {"0": ONE, "1": OTHER}, {"0": OTHER, "1": ONE}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(key: str = "0", kind: bytes = b"FloatStorage", view: bytes = b"") -> bytes:
    return b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + text(key) + text("cpu") + b"K\x04" + view + b"tQ"


def tensor(key: str = "0", metadata: bytes = b"", **of: bytes) -> bytes:
    """The record of four numbers; ``metadata`` is one argument more."""
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(key, **of) + b"K\0(K\4t(K\1t" + hooks + metadata + b"tR"


def call(function: str, *args: bytes) -> bytes:
    module, _, name = function.rpartition(".")
    return f"c{module}\n{name}\n(".encode() + b"".join(args) + b"tR"


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + item for name, item in items.items()) + b"u"


def zipped(data: bytes, path: Path, arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + data + b".")
        for key, array in arrays.items():
            archive.writestr(f"x/data/{key}", array.tobytes())
        archive.writestr("x/version", b"3\n")


def legacy(data: bytes, path: Path, arrays: dict[str, np.ndarray]) -> None:
    data = data.replace(b"K\x04tQ", b"K\x04NtQ")  # there a storage says of itself, too, that it is no view
    path.write_bytes(
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}" + text("little_endian") + b"\x88s."
        + b"\x80\x02" + data + b".\x80\x02](" + b"".join(map(text, arrays)) + b"e."
        + b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values())
    )  # fmt: skip


OTHER_STORAGE = b"(" + storage("1") + b"K\0(K\4t(K\1ttb"
DATA = b"}" + text("data") + tensor("1") + b"s"
NO_HOOKS = b"\x89ccollections\nOrderedDict\n)R"
PLAIN_ARGS = b"(" + storage() + b"K\0(K\4t(K\1t" + NO_HOOKS + b"t"

#: Pickles in which the tensor "w" first is ONE, and PyTorch comes to something else.
CHANGED = {
    "another storage by BUILD": mapping(w=tensor() + OTHER_STORAGE),
    "another storage of a parameter": mapping(
        w=call("torch._utils._rebuild_parameter", tensor(), NO_HOOKS) + OTHER_STORAGE
    ),
    "an attribute that is the values": mapping(
        w=call(
            "torch._tensor._rebuild_from_type_v2",
            b"ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n", PLAIN_ARGS, DATA,
        ),
    ),
    "an attribute in slots": mapping(
        w=call(
            "torch._tensor._rebuild_from_type_v2",
            b"ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n", PLAIN_ARGS, b"N" + DATA + b"\x86",
        ),
    ),
    "an attribute of a parameter": mapping(
        w=call("torch._utils._rebuild_parameter_with_state", tensor(), NO_HOOKS, DATA)
    ),
    "negated": mapping(w=tensor(metadata=b"}" + text("neg") + b"\x88s")),
    "one storage of two types": mapping(a=tensor(kind=b"IntStorage"), w=tensor()),
    "a list that grows after it was used": mapping(
        a=b"]q\1](" + text("w") + tensor("1") + b"ea",
        model=call("collections.OrderedDict", b"h\1"),
        b=b"h\1](" + text("w") + tensor() + b"ea",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED)
@pytest.mark.parametrize("pack", [zipped, legacy])
def test_a_tensor_that_becomes_another(pack: Callable[..., None], case: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    pack(CHANGED[case], path, FIRST if b"X\x01\0\0\x001" in CHANGED[case] else {"0": ONE})
    state = torch.load(path, weights_only=True)
    assert state.get("model", state)["w"].tolist() != ONE.tolist()
    assert isinstance(keep(path), CheckpointError)


def test_one_view_of_two_places(tmp_path: Path) -> None:
    """Of a view's name the old format's reader takes the first, too."""
    path = tmp_path / "model.pt"

    def view(start: int) -> bytes:
        record = b"(" + text("v") + b"K" + bytes([start]) + b"K\2t"
        call = b"ctorch._utils\n_rebuild_tensor_v2\n("
        return call + storage(view=record) + b"K\0(K\2t(K\1t" + NO_HOOKS + b"tR"

    legacy(mapping(a=view(2)), path, {"0": ONE})
    assert torch.load(path)["a"].tolist() == [3, 4]
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("a").tolist() == [3, 4]
    legacy(mapping(a=view(2), w=view(0)), path, {"0": ONE})
    assert torch.load(path)["w"].tolist() == [3, 4]
    assert "two types or sizes" in str(keep(path))


@pytest.mark.parametrize(
    "held",
    [
        call("collections.OrderedDict", b"}" + text("w") + tensor() + b"s"),
        call("collections.Counter", b"}" + text("w") + tensor() + b"s"),
        call("collections.OrderedDict", b"](" + b"](" + text("w") + tensor() + b"ee"),
    ],
)
def test_a_mapping_made_of_another(held: bytes, tmp_path: Path) -> None:
    """Its tensors were left out where it had more of them."""
    path = tmp_path / "model.pt"
    zipped(held + text("v") + tensor("1") + b"s", path, FIRST)
    assert {name: item.tolist() for name, item in torch.load(path, weights_only=True).items()} == {
        "w": ONE.tolist(), "v": OTHER.tolist(),
    }  # fmt: skip
    with open_checkpoint(path) as checkpoint:
        assert {name: checkpoint.read(name).tolist() for name in checkpoint.tensors} == {
            "w": ONE.tolist(), "v": OTHER.tolist(),
        }  # fmt: skip


def test_a_tensor_made_empty_and_given_a_storage(tmp_path: Path) -> None:
    """It was left out as no tensor."""
    path = tmp_path / "model.pt"
    given = b"ctorch\nFloatTensor\n)R(" + storage() + b"K\0(K\4t(K\1ttb"
    zipped(mapping(w=given, v=tensor("1")), path, FIRST)
    assert torch.load(path, weights_only=True)["w"].tolist() == ONE.tolist()
    assert "tensor 'w'" in str(keep(path))


@pytest.mark.parametrize("zip", [True, False])
def test_conjugated_and_negated_views(zip: bool, tmp_path: Path) -> None:
    """PyTorch saves the values as they lie and says beside them what they mean."""
    path = tmp_path / "model.pt"
    values = torch.tensor([1 + 2j]).conj()
    for view in (values, values.imag):
        torch.save({"w": view}, path, _use_new_zipfile_serialization=zip)
        with pytest.raises(CheckpointError, match="a conjugated or negated view") as raised:
            open_checkpoint(path)
        assert raised.value.hint == "save tensor.resolve_conj().resolve_neg()"
        torch.save({"w": view.resolve_conj().resolve_neg()}, path, _use_new_zipfile_serialization=zip)
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.read("w").tolist() == view.tolist()


def test_attributes_of_a_parameter_are_no_harm(tmp_path: Path) -> None:
    path, weight = tmp_path / "model.pt", torch.nn.Parameter(torch.ones(2))
    weight.layer, weight.mask = "first", torch.zeros(2)
    torch.save({"w": weight}, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 1]


# -- zip ---------------------------------------------------------------------------------------------------------------


def archive(array: np.ndarray) -> tuple[bytes, bytes, int]:
    """The records and the directory of a file with the tensor "w", and how many records there are."""
    buffer = io.BytesIO()
    torch.save({"w": torch.from_numpy(array)}, buffer)
    with zipfile.ZipFile(buffer) as packed:
        count, start = len(packed.infolist()), packed.start_dir
    (size,) = struct.unpack("<I", buffer.getvalue()[-10:-6])
    return buffer.getvalue()[:start], buffer.getvalue()[start : start + size], count


def moved(directory: bytes, by: int) -> bytes:
    """A directory of records that begin ``by`` bytes later."""
    result, at = bytearray(directory), 0
    while at < len(result):
        struct.pack_into("<I", result, at + 42, struct.unpack_from("<I", result, at + 42)[0] + by)
        at += 46 + sum(struct.unpack_from("<HHH", result, at + 28))
    return bytes(result)


def end(count: int, size: int, start: int) -> bytes:
    return b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, size, start, 0)


def large_end(count: int, size: int, start: int) -> bytes:
    return b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start)


def two_archives(kind: str) -> bytes:
    """A file with two directories: of ONE is that to which its end points, of OTHER that before its end."""
    records, directory, count = archive(ONE)
    others, other, _ = archive(OTHER)
    first = records + directory
    if kind == "by the end":
        return first + others + other + end(count, len(other), len(records))
    ended = first + large_end(count, len(directory), len(records))
    start = len(ended) + len(others)
    last = ended + others + moved(other, len(ended)) + large_end(count, len(other), start)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(first), 1)
    return last + locator + end(count, 2**32 - 1, 2**32 - 1)


@pytest.mark.parametrize("kind", ["by the end", "by the locator of zip64"])
def test_a_zip_file_with_two_directories(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(two_archives(kind))
    assert torch.load(path, weights_only=True)["w"].tolist() == ONE.tolist()
    with zipfile.ZipFile(path) as packed:
        record = next(name for name in packed.namelist() if name.endswith("data/0"))
        assert packed.read(record) == OTHER.tobytes()
    error = keep(path)
    assert isinstance(error, Malformed)
    assert "its zip directory" in str(error)


def test_a_directory_that_counts_fewer_records(tmp_path: Path) -> None:
    """PyTorch reads as many as it says."""
    path = tmp_path / "model.pt"
    records, directory, count = archive(ONE)
    path.write_bytes(records + directory + end(count, len(directory), len(records)))
    assert keep(path) is None
    path.write_bytes(records + directory + end(count - 1, len(directory), len(records)))
    assert f"it has {count} records and claims {count - 1}" in str(keep(path))


def test_names_that_differ_in_case_alone(tmp_path: Path) -> None:
    """To PyTorch they are one, and which it takes depends on where they are."""
    path, seen = tmp_path / "model.pt", set()
    for key in "aA":
        zipped(mapping(w=tensor(key)), path, {"a": ONE, "A": OTHER})
        seen.add(torch.load(path, weights_only=True)["w"][0].item())
        assert "differ in upper and lower case alone" in str(keep(path))
    assert len(seen) == 1
    np.savez(tmp_path / "arrays.npz", a=ONE, A=OTHER)
    assert keep(tmp_path / "arrays.npz") is None


def test_a_name_with_a_zero(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    zipped(mapping(w=tensor()), path, {"0?b": ONE})
    path.write_bytes(path.read_bytes().replace(b"0?b", b"0\0b"))
    assert "its name has a zero in it" in str(keep(path))


# -- folders and ONNX --------------------------------------------------------------------------------------------------


def test_tensors_that_the_index_does_not_list(tmp_path: Path) -> None:
    """transformers reads whole shards, whatever their index says."""
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.ones(2)}, tmp_path / shards[0])
    save_file({"b": torch.ones(2), "c": torch.zeros(2)}, tmp_path / shards[1])
    with open_checkpoint(tmp_path) as checkpoint:
        assert {name: checkpoint.read(name).tolist() for name in checkpoint.tensors} == {
            "a": [1, 1], "b": [1, 1], "c": [0, 0],
        }  # fmt: skip
    save_file({"b": torch.ones(2), "a": torch.zeros(2)}, tmp_path / shards[1])
    assert f"tensor 'a': another is in {shards[0]}" in str(keep(tmp_path))


@pytest.mark.parametrize("sparse", [False, True])
def test_an_initializer_that_a_node_makes_again(sparse: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(OTHER)),
        helper.make_node("Identity", ["w"], ["y"]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph(nodes, "g", [], [output])
    if sparse:
        values, places = numpy_helper.from_array(ONE, "w"), numpy_helper.from_array(np.arange(4))
        graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    else:
        graph.initializer.append(numpy_helper.from_array(ONE, "w"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    if not sparse:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        assert session.run(None, {})[0].tolist() == OTHER.tolist()
    assert isinstance(keep(path), Malformed)
