"""NumPy's .npz files, and the sparse matrices in them."""

import io
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse

from sift_cli.checkpoint import open_checkpoint, sniff
from sift_cli.errors import CheckpointError, Malformed

ARRAYS = {
    "layer/größe": np.float32([[1, -0.0, np.nan], [np.inf, 0, -2]]),
    "columns first": np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
    "transposed": np.arange(6, dtype=np.int16).reshape(2, 3).T,
    "scalar": np.array(7, np.uint64),
    "empty": np.zeros((0, 3), np.float16),
    "bools": np.array([True, False]),
    "complex": np.array([1 + 2j], np.complex64),
}
SAVE = pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
MATRIX = scipy.sparse.csr_matrix(np.float32([[0, 1, 0, 0], [0, 0, 0, 0], [2, 0, 0, -3], [0, 0, 4, 0]]))
#: The parts of a matrix [2, 3] with 5 at [0, 2] and −0 at [1, 0], in a tensor [2, 3, 1].
PARTS = {
    "a.b.data": np.float32([5, -0.0]),
    "a.b.indices": np.int32([2, 0]),
    "a.b.indptr": np.int32([0, 1, 2]),
    "a.b.shape": np.array([2, 3]),
    "a.b.dense_shape": np.array([2, 3, 1]),
}


def member(header, data=b"", version=1):
    """A .npy file."""
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin-1") + data


def described(descr="<f4", shape="(2,)", order="False"):
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n"


def archive(path, content, name="w.npy", method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr(name, content)
    return path


@SAVE
def test_arrays(save, tmp_path):
    save(tmp_path / "x.npz", **ARRAYS)
    assert sniff(tmp_path / "x.npz") == "npz"
    with open_checkpoint(tmp_path / "x.npz") as checkpoint:
        assert list(checkpoint.tensors) == list(ARRAYS)
        for name, array in ARRAYS.items():
            found, spec = checkpoint.read(name), checkpoint.tensors[name]
            assert (found.dtype, found.shape) == (array.dtype, array.shape) == (found.dtype, spec.shape)
            assert found.tobytes() == array.tobytes()
            assert checkpoint.mask(name) is None


def test_stored_bytes_are_those_in_the_file(tmp_path):
    np.savez_compressed(tmp_path / "x", a=np.zeros(10_000), b=np.ones(3))
    with zipfile.ZipFile(tmp_path / "x.npz") as file, open_checkpoint(tmp_path / "x.npz") as checkpoint:
        for name, spec in checkpoint.tensors.items():
            assert spec.stored_bytes == file.getinfo(f"{name}.npy").compress_size
        assert checkpoint.tensors["a"].stored_bytes < 1000


def test_texts_are_ignored(tmp_path):
    np.savez(tmp_path / "x", w=np.ones(2), names=np.array(["conv", "bn"]), author=np.array(b"me"))
    with open_checkpoint(tmp_path / "x.npz") as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert checkpoint.ignored == ("names", "author")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_as_other_programs_write_them(version, tmp_path):
    header = "{'shape': (2, 1),'fortran_order':False,\n 'descr': '|i1'}"
    path = archive(tmp_path / "x", member(header, b"\x05\xff", version))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("w").tolist() == [[5], [-1]]


# sparse matrices


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layout", ["csr", "csc", "bsr"])
def test_scipy(layout, compressed, tmp_path):
    matrix = MATRIX.tobsr((2, 2)) if layout == "bsr" else MATRIX.asformat(layout)
    scipy.sparse.save_npz(tmp_path / "fc.npz", matrix, compressed=compressed)
    with open_checkpoint(tmp_path / "fc.npz") as checkpoint:
        (spec,) = checkpoint.tensors.values()
        assert (spec.name, spec.shape, spec.dtype, spec.format) == ("fc", (4, 4), "F32", layout)
        assert np.array_equal(checkpoint.read("fc"), MATRIX.toarray())
        listed = matrix.tocoo()  # of blocks, with the zeros inside of them
        kept = np.zeros((4, 4), bool)
        kept[listed.row, listed.col] = True
        if layout == "bsr":
            kept = np.kron([[1, 0], [1, 1]], np.ones((2, 2))).astype(bool)
        assert np.array_equal(checkpoint.mask("fc").to_bool(), kept)
        assert spec.nonzero == kept.sum()
        assert checkpoint.ignored == ("format",)


def test_sparse_arrays_of_scipy(tmp_path):
    scipy.sparse.save_npz(tmp_path / "fc.npz", scipy.sparse.csr_array(MATRIX))
    with open_checkpoint(tmp_path / "fc.npz") as checkpoint:
        assert list(checkpoint.tensors) == ["fc"]


@pytest.mark.parametrize("layout", ["coo", "dia"])
def test_other_layouts_of_scipy(layout, tmp_path):
    scipy.sparse.save_npz(tmp_path / "x.npz", MATRIX.asformat(layout))
    with pytest.raises(CheckpointError, match=f"layout '{layout}', and sift reads csr, csc, bsr") as refused:
        open_checkpoint(tmp_path / "x.npz")
    assert refused.value.hint == "save it as scipy.sparse.save_npz(path, matrix.tocsr())"


@SAVE
def test_a_matrix_by_its_parts(save, tmp_path):
    save(tmp_path / "x", before=np.ones(1), **PARTS, after=np.ones(1))
    with open_checkpoint(tmp_path / "x.npz") as checkpoint:
        assert list(checkpoint.tensors) == ["before", "a.b", "after"]
        wanted = np.float32([[0, 0, 5], [-0.0, 0, 0]]).reshape(2, 3, 1)
        assert checkpoint.read("a.b").tobytes() == wanted.tobytes()
        assert checkpoint.read("a.b").shape == (2, 3, 1)
        assert checkpoint.mask("a.b").to_bool().reshape(-1).tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("missing", ["data", "indices", "indptr", "shape"])
def test_some_parts_are_arrays_of_their_own(missing, tmp_path):
    rest = {name: array for name, array in PARTS.items() if not name.endswith(f".{missing}")}
    np.savez(tmp_path / "x", **rest)
    with open_checkpoint(tmp_path / "x.npz") as checkpoint:
        assert list(checkpoint.tensors) == list(rest)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"a.b.shape": np.array([2, 3, 1])}, "csr of 3 axes"),
        ({"a.b.shape": np.array([2.0, 3.0])}, "its shape is float64"),
        ({"a.b.shape": np.arange(1000)}, r"its shape is int64 \[1000\]"),
        ({"a.b.shape": np.array([-2, 3])}, "is not a shape"),
        ({"a.b.dense_shape": np.array([2, 2])}, r"a matrix \[2, 3\] is no tensor \[2, 2\]"),
        ({"a.b.indptr": np.int32([0, 1, 1, 2])}, "its parts"),
        ({"a.b.indptr": np.float32([0, 1, 2])}, "its indices are not"),
        ({"a.b": np.ones(2)}, "both dense and sparse"),
    ],
)
def test_parts_that_do_not_fit(changed, why, tmp_path):
    np.savez(tmp_path / "x", **{**PARTS, **changed})
    with pytest.raises(Malformed, match=why):
        open_checkpoint(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"a.b.indices": np.int32([3, 0])}, "it has elements from 0 to 3 of axis 1"),
        ({"a.b.indices": np.int32([-1, 0])}, "it has elements from -1"),
        ({"a.b.indptr": np.int32([0, 3, 2])}, "do not begin one after another"),
        ({"a.b.indptr": np.int32([0, 2, 2]), "a.b.indices": np.int32([1, 1])}, "an element twice"),
    ],
)
def test_contradictions_that_only_reading_shows(changed, why, tmp_path):
    np.savez(tmp_path / "x", **{**PARTS, **changed})
    with open_checkpoint(tmp_path / "x.npz") as checkpoint:
        for read in (checkpoint.read, checkpoint.mask):
            with pytest.raises(Malformed, match=why):
                read("a.b")


# what is refused


def test_objects_are_never_unpickled(tmp_path):
    class Touch:
        def __reduce__(self):
            return open, (str(tmp_path / "run"), "w")

    np.savez(tmp_path / "x", w=np.array([Touch()], object))
    with pytest.raises(CheckpointError, match="'w' has elements that sift cannot hold: Python objects"):
        open_checkpoint(tmp_path / "x.npz", allow_pickle=True)
    assert not (tmp_path / "run").exists()


def test_bfloat16_has_no_type_there(tmp_path):
    np.savez(tmp_path / "x", w=np.ones(2, ml_dtypes.bfloat16))
    with pytest.raises(CheckpointError, match="'w' has elements that sift cannot hold: '<V2'") as refused:
        open_checkpoint(tmp_path / "x.npz")
    assert "save it as float32" in refused.value.hint


@pytest.mark.parametrize("dtype", [">f4", "<M8[s]", [("a", "<f4")]], ids=str)
def test_other_types(dtype, tmp_path):
    np.savez(tmp_path / "x", w=np.zeros(2, dtype))
    with pytest.raises(CheckpointError, match="tensor 'w'"):
        open_checkpoint(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPZ" + member(described(), bytes(8))[6:],
        member(described(), bytes(7)),
        member(described(), bytes(9)),
        member(described(shape="(2, -1)")),
        member(described(shape="(2.0,)"), bytes(8)),
        member(described(shape="(True,)"), bytes(4)),
        member(described(shape="[2]"), bytes(8)),
        member(described(shape="(4611686018427387904, 4)"), bytes(8)),
        member(described(shape="(1,) * 99"), bytes(4)),
        member(described(shape="(" + "1," * 65 + ")"), bytes(4)),
        member(described(order="0"), bytes(8)),
        member(described(descr="f4, f4"), bytes(8)),
        member(described(descr="<f4\\"), bytes(8)),
        member("{'descr': '<f4'}"),
        member("'" * 9),
        member("-" * 4000 + "1"),
        member("(" * 4000),
        member("9" * 4000),
        member("__import__('os').getcwd()"),
        member(described() + " " * 5000, bytes(8)),
        member("{[]: 1}"),
        member("\0"),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_headers_that_are_wrong(content, method, tmp_path):
    with pytest.raises(CheckpointError, match="'w'"):
        open_checkpoint(archive(tmp_path / "x", content, method=method))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_in_a_way_that_expands_without_bound(method, tmp_path):
    path = archive(tmp_path / "x", member(described(), bytes(8)), method=method)
    with pytest.raises(CheckpointError, match="compressed otherwise than by deflate"):
        open_checkpoint(path)


def claiming(path, nbytes):
    """A compressed array of ``nbytes`` bytes after its header and its directory, and of 5000 in truth."""
    content = member(described("|i1", f"({nbytes},)"), bytes(5000))
    archive(path, content, method=zipfile.ZIP_DEFLATED)
    said, claimed = (struct.pack("<I", size) for size in (len(content), len(content) - 5000 + nbytes))
    data = path.read_bytes()
    assert data.count(said) == 2
    path.write_bytes(data.replace(said, claimed))
    return path


def test_a_bomb(tmp_path):
    with open_checkpoint(claiming(tmp_path / "x", 2**31)) as checkpoint:
        assert checkpoint.tensors["w"].shape == (2**31,)
        with pytest.raises(Malformed, match=r"it would take 2,147,483,7\d\d bytes, out of a file of \d{3}"):
            checkpoint.read("w")


def test_a_compressed_array_that_ends_too_early(tmp_path):
    with (
        open_checkpoint(claiming(tmp_path / "x", 6000)) as checkpoint,
        pytest.raises(Malformed, match=r"record 'w\.npy'"),
    ):
        checkpoint.read("w")


@SAVE
def test_an_array_with_a_flipped_bit(save, tmp_path):
    save(tmp_path / "x", w=np.random.default_rng(0).integers(0, 99, 10_000))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with (
        open_checkpoint(tmp_path / "x.npz") as checkpoint,
        pytest.raises(Malformed, match=r"record 'w\.npy'"),
    ):
        checkpoint.read("w")


@SAVE
def test_truncated_anywhere(save, tmp_path):
    file = io.BytesIO()
    save(file, w=np.arange(5), v=np.ones(3))
    for length in range(1, file.tell(), 7):
        (tmp_path / "x").write_bytes(file.getvalue()[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "x")


def test_no_numbers(tmp_path):
    np.savez(tmp_path / "x", names=np.array(["conv"]))
    with pytest.raises(CheckpointError, match="no arrays of numbers"):
        open_checkpoint(tmp_path / "x.npz")
