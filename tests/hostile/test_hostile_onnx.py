"""ONNX models that reach outside their folder, or whose tensors are not what they say."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.disk import bytes_on_disk
from sift_cli.errors import CheckpointError, Malformed
from sift_cli.runtime.sessions import session

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def model_of(*initializers, nodes=(), **metadata) -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph(list(nodes), "g", [], [], list(initializers)))
    helper.set_model_props(model, metadata)
    return model


def write(path, model) -> None:
    path.write_bytes(model.SerializeToString())


def external(location, *, shape=(2, 3), **more) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture
def folder(tmp_path):
    """A model's folder with its data, and a secret beside it."""
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    for place in (inside / "w.bin", inside / "sub" / "w.bin", tmp_path / "secret.bin"):
        place.write_bytes(b"head" + W.tobytes())
    return inside


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "./w.bin", "sub\\w.bin"])
def test_external_data_inside_the_folder(location, folder):
    write(folder / "m.onnx", model_of(external(location, offset=4, length=24)))
    with open_checkpoint(folder / "m.onnx") as checkpoint:
        assert checkpoint.read("w").tobytes() == W.tobytes()


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "sub/../../secret.bin", "..\\secret.bin", "/etc/passwd", "ABSOLUTE", "", ".", "C:\\secret.bin"],
)
def test_external_data_outside_the_folder_is_never_opened(location, folder):
    location = str(folder.parent / "secret.bin") if location == "ABSOLUTE" else location
    write(folder / "m.onnx", model_of(external(location, offset=4, length=24)))
    with (
        open_checkpoint(folder / "m.onnx") as checkpoint,
        pytest.raises(Malformed, match="not inside the model's folder"),
    ):
        checkpoint.read("w")


@pytest.mark.parametrize("target", ["../secret.bin", "w.bin"])
@pytest.mark.parametrize("through", ["file", "folder"])
def test_external_data_through_a_link_is_refused(target, through, folder):
    if through == "file":
        (folder / "link").symlink_to(target)
        location = "link"
    else:
        (folder / "link").symlink_to("..")
        location = "link/secret.bin"
    write(folder / "m.onnx", model_of(external(location, offset=4, length=24)))
    with open_checkpoint(folder / "m.onnx") as checkpoint, pytest.raises(Malformed, match="is a link"):
        checkpoint.read("w")


def test_a_model_that_is_a_link_finds_its_data_beside_the_link(folder, tmp_path):
    """The folder is that of the path as given. (A link to a model elsewhere does not reach that place's files.)"""
    write(folder / "m.onnx", model_of(external("w.bin", offset=4, length=24)))
    other = tmp_path / "other"
    other.mkdir()
    (other / "m.onnx").symlink_to(folder / "m.onnx")
    with open_checkpoint(other / "m.onnx") as checkpoint, pytest.raises(Malformed, match="missing"):
        checkpoint.read("w")


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 5, "length": 24},
        {"offset": -4, "length": 24},
        {"offset": 2**63, "length": 24},
        {"offset": "four", "length": 24},
        {"offset": "9" * 5000, "length": 24},
        {"offset": 0, "length": 23},
        {"offset": 0, "length": -24},
        {"offset": 0, "length": 24, "shape": (2**20, 2**20)},
        {"offset": 0, "length": 2**42, "shape": (2**20, 2**20)},
    ],
)
def test_external_data_of_the_wrong_place_or_size(fields, folder):
    write(folder / "m.onnx", model_of(external("w.bin", **fields)))
    with open_checkpoint(folder / "m.onnx") as checkpoint, pytest.raises(CheckpointError):
        checkpoint.read("w")


@pytest.mark.parametrize("location", ["missing.bin", "sub", "a\0b", "x" * 5000])
def test_external_data_that_is_no_file(location, folder):
    write(folder / "m.onnx", model_of(external(location, offset=0, length=24)))
    with open_checkpoint(folder / "m.onnx") as checkpoint, pytest.raises(CheckpointError):
        checkpoint.read("w")


@pytest.mark.parametrize("key", ["location", "offset"])
def test_external_data_of_two_places(key, folder):
    """What one reader takes for the place of the data, another need not."""
    tensor = external("w.bin", offset=4, length=24)
    tensor.external_data.add(key=key, value="../secret.bin" if key == "location" else "0")
    write(folder / "m.onnx", model_of(tensor))
    with (
        open_checkpoint(folder / "m.onnx") as checkpoint,
        pytest.raises(Malformed, match=f"says twice what the '{key}' of its data is"),
    ):
        checkpoint.read("w")
    with pytest.raises(Malformed, match="says twice"):
        bytes_on_disk(folder / "m.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "ABSOLUTE", "link", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize("place", ["initializer", "constant", "body"])
def test_onnxruntime_is_not_given_a_model_with_data_elsewhere(location, place, folder):
    """Version 1.17 opens them; and the last name is its own for an address in memory."""
    (folder / "link").symlink_to("../secret.bin")
    tensor = external(location.replace("ABSOLUTE", str(folder.parent / "secret.bin")), offset=0, length=24)
    if place == "initializer":
        write(folder / "m.onnx", model_of(tensor))
    else:
        node = helper.make_node("Constant", [], ["y"], value=tensor)
        body = helper.make_graph([node], "body", [], [helper.make_tensor_value_info("y", 1, [2, 3])])
        loop = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
        write(folder / "m.onnx", model_of(nodes=[node if place == "constant" else loop]))
    with pytest.raises(Malformed, match="tensor 'w': its data"):
        session(folder / "m.onnx", library=False)


def test_onnxruntime_gets_a_model_with_data_beside_it(folder):
    model = model_of(external("w.bin", offset=4, length=24), nodes=[helper.make_node("Identity", ["w"], ["y"])])
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3]))
    model.ir_version, model.opset_import[0].version = 8, 17
    write(folder / "m.onnx", model)
    assert session(folder / "m.onnx", library=False).run(None, {})[0].tobytes() == W.tobytes()


#: What is written, and what stands in its place: no UTF-8.
TEXTS = {
    "a tensor": (b"\x01w", b"\x01\xff", "tensor b'\\xff': its name is no UTF-8"),
    "a tensor of strings": (b"text", b"tex\xff", "tensor b'tex\\xff': its name is no UTF-8"),
    "a key": (b"sift.plan", b"sift.pla\xff", "its metadata: it is no UTF-8"),
    "a value": (b"value", b"valu\xff", "its metadata: it is no UTF-8"),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_name_that_is_no_utf_8(text, tmp_path):
    old, new, why = TEXTS[text]
    strings = helper.make_tensor("text", TensorProto.STRING, [1], [b"x"])
    data = model_of(numpy_helper.from_array(W, "w"), strings, **{"sift.plan": "value"}).SerializeToString()
    assert data.count(old) == 1
    (tmp_path / "m.onnx").write_bytes(data.replace(old, new))
    with pytest.raises(Malformed) as raised:
        open_checkpoint(tmp_path / "m.onnx")
    assert why in str(raised.value)


@pytest.mark.parametrize("text", [b"location", b"w.bin"])
def test_external_data_of_a_place_that_is_no_utf_8(text, folder):
    data = model_of(external("w.bin", offset=4, length=24)).SerializeToString()
    (folder / "m.onnx").write_bytes(data.replace(text, text[:-1] + b"\xff"))
    with open_checkpoint(folder / "m.onnx") as checkpoint, pytest.raises(Malformed, match="is no UTF-8"):
        checkpoint.read("w")
    with pytest.raises(Malformed, match="is no UTF-8"):
        bytes_on_disk(folder / "m.onnx")


def raw(dims, data: bytes, data_type=TensorProto.FLOAT) -> TensorProto:
    return TensorProto(name="w", data_type=data_type, dims=dims, raw_data=data)


REFUSED = {
    "raw data too short": (raw([2, 3], b"\0" * 23), "it has 23 bytes"),
    "raw data too long": (raw([2, 3], b"\0" * 25), "it has 25 bytes"),
    "a negative dimension": (raw([-1], b"\0" * 4), "not a shape"),
    "2^80 elements": (raw([2**40, 2**40], b""), "2^63"),
    "65 dimensions": (raw([1] * 65, b"\0" * 4), "65 dimensions"),
    "4-bit integers": (raw([2], b"\0", TensorProto.INT4), "data type 22, which sift cannot hold"),
    "an unknown data type": (raw([2], b"\0", 99), "data type 99, which sift cannot hold"),
    "an undefined data type": (raw([2], b"\0", 0), "data type 0, which sift cannot hold"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tensor_that_is_not_what_it_says(case, tmp_path):
    tensor, why = REFUSED[case]
    write(tmp_path / "m.onnx", model_of(tensor))
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(tmp_path / "m.onnx")
    assert why in str(raised.value)


def test_typed_data_of_another_length(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], float_data=[1.0, 2.0])
    write(tmp_path / "m.onnx", model_of(tensor))
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint, pytest.raises(Malformed):
        checkpoint.read("w")


def test_a_name_twice(tmp_path):
    write(tmp_path / "m.onnx", model_of(numpy_helper.from_array(W, "w"), numpy_helper.from_array(W, "w")))
    with pytest.raises(Malformed, match="twice"):
        open_checkpoint(tmp_path / "m.onnx")


def test_a_metadata_key_twice(tmp_path):
    model = model_of(numpy_helper.from_array(W, "w"))
    for value in "ab":
        model.metadata_props.add(key="k", value=value)
    write(tmp_path / "m.onnx", model)
    with pytest.raises(Malformed, match="'k' is there twice"):
        open_checkpoint(tmp_path / "m.onnx")


def coo(values, indices, dims, *dense) -> onnx.ModelProto:
    """A model with the sparse initializer "w"."""
    model = model_of(*dense)
    parts = numpy_helper.from_array(np.asarray(values), "w"), numpy_helper.from_array(np.asarray(indices), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(*parts, dims))
    return model


V = np.float32([1, -2, 3])
SPARSE_LIES = {
    "values of two axes": (coo(V[None], [1, 2, 3], [2, 5]), "its values [1, 3] and indices [3] are not of [2, 5]"),
    "values as wide as the coordinates": (
        coo(np.ones((2, 2), np.float32), [[0, 1], [1, 1]], [2, 5]),
        "its values [2, 2] and indices [2, 2]",
    ),
    "indices of one value fewer": (coo(V, [1, 2], [2, 5]), "its values [3] and indices [2]"),
    "coordinates of too few axes": (coo(V, [[1], [2], [3]], [2, 5]), "its values [3] and indices [3, 1]"),
    "coordinates of too many axes": (coo(V, [[0, 1, 2]] * 3, [2, 5]), "its values [3] and indices [3, 3]"),
    "indices that are floats": (coo(V, V, [2, 5]), "its indices are F32"),
    "indices without a sign": (coo(V, np.uint64([1, 2, 3]), [2, 5]), "its indices are U64"),
    "a negative dimension": (coo(V, [1, 2, 3], [-2, 5]), "not a shape"),
    "2^80 elements": (coo(V, [1, 2, 3], [2**40, 2**40]), "2^63"),
    "more values than elements": (coo(V, [0, 1, 1], [2]), "it has 3 values for 2 elements"),
    "dense too": (coo(V, [1, 2, 3], [2, 5], numpy_helper.from_array(W, "w")), "it is there twice"),
}


@pytest.mark.parametrize("lie", SPARSE_LIES)
def test_a_sparse_initializer_that_lies(lie, tmp_path):
    model, why = SPARSE_LIES[lie]
    write(tmp_path / "m.onnx", model)
    with pytest.raises(Malformed) as raised:
        open_checkpoint(tmp_path / "m.onnx")
    assert "damaged at tensor 'w'" in str(raised.value)
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("indices", "dims", "why"),
    [
        ([0, 3, 10], [2, 5], "elements from 0 to 10 of axis 0, which has 10"),
        ([-1, 3, 4], [2, 5], "elements from -1 to 4"),
        ([[0, 0], [1, 5], [0, 1]], [2, 5], "elements from 0 to 5 of axis 1, which has 5"),
        ([3, 3, 4], [2, 5], "an element twice"),
        ([[0, 1], [1, 1], [0, 1]], [2, 5], "an element twice"),
        ([1, 2, 3], [2**20, 2**20], "it would take 4,398,046,511,104 bytes"),
    ],
)
def test_indices_that_lie(indices, dims, why, tmp_path):
    write(tmp_path / "m.onnx", coo(V, indices, dims))
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        for ask in (checkpoint.read, checkpoint.mask):
            with pytest.raises(Malformed) as raised:
                ask("w")
            assert why in str(raised.value)


def test_a_graph_nested_ten_thousand_deep(tmp_path):
    """If nodes within If nodes, as bytes: a graph in an attribute in a node in a graph …"""

    def field(number: int, data: bytes) -> bytes:
        return onnx_varint(number << 3 | 2) + onnx_varint(len(data)) + data

    graph = b""
    for _ in range(10_000):
        graph = field(1, field(5, field(6, graph)))
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x0a" + field(7, graph) + field(8, b"\x10\x0d"))
    with pytest.raises(Malformed, match="does not parse"):
        open_checkpoint(path)


def onnx_varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def sparse_model(shape=(2, 5), *, bits=(0x0B, 0x02), values=4, dtype=np.uint8, dense=(), nodes=1, dims=None):
    arrays = [
        numpy_helper.from_array(np.array(bits, dtype), "w.bitmask"),
        numpy_helper.from_array(np.arange(1, values + 1, dtype=np.float32).reshape(dims or -1), "w.values"),
        *dense,
    ]
    made = [
        helper.make_node("SparseLinear", ["x", "w.bitmask", "w.values"], [f"y{i}"], domain="sift", weight_shape=list(s))
        for i, s in enumerate([shape] if nodes == 1 else [shape, (5, 2)])
    ]
    return model_of(*arrays, nodes=made)


def test_a_sparse_node_is_shown_as_the_tensor_it_stands_for(tmp_path):
    write(tmp_path / "m.onnx", sparse_model())
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        spec = checkpoint.tensors["w"]
        assert list(checkpoint.tensors) == ["w"]
        assert (spec.shape, spec.dtype, spec.format, spec.nonzero, spec.stored_bytes) == (
            (2, 5),
            "F32",
            "bitmask",
            4,
            18,
        )
        assert checkpoint.read("w").tolist() == [[1, 2, 0, 3, 0], [0, 0, 0, 0, 4]]
        assert checkpoint.mask("w").to_bool().tolist() == (checkpoint.read("w") != 0).tolist()


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"shape": (2, 50)}, "its bitmask is U8 [2]"),
        ({"shape": (-2, 5)}, "not a shape"),
        ({"shape": (2**40, 2**40)}, "2^63"),
        ({"dtype": np.int32}, "its bitmask is I32 [2]"),
        ({"dense": [numpy_helper.from_array(W, "w")]}, "both dense and sparse"),
        ({"nodes": 2}, "different shapes"),
        ({"dims": (2, 2)}, "its values have the shape [2, 2]"),
    ],
)
def test_a_sparse_node_that_lies(broken, why, tmp_path):
    write(tmp_path / "m.onnx", sparse_model(**broken))
    with pytest.raises(Malformed) as raised:
        open_checkpoint(tmp_path / "m.onnx")
    assert why in str(raised.value)


@pytest.mark.parametrize("broken", [{"bits": (0x0B, 0x00)}, {"bits": (0x0B, 0x82)}, {"values": 3}])
def test_a_bitmask_that_lies(broken, tmp_path):
    write(tmp_path / "m.onnx", sparse_model(**broken))
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        for ask in (checkpoint.read, checkpoint.mask):
            with pytest.raises(Malformed):
                ask("w")
