"""The zip archives of sift convert, read by numpy, torch and the standard library."""

import os
import struct
import subprocess
import sys
import zipfile
import zlib

import ml_dtypes
import numpy as np
import planned
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.torch_arrays import to_numpy
from sift_cli.conversion.containers import PlannedFile, Tensor, _crc32, get
from sift_cli.conversion.encodings import About, Array
from sift_cli.core.tensors import DTYPES
from sift_cli.errors import ExportError

RNG = np.random.default_rng(0)
OF_NUMPY = [dtype for dtype in DTYPES.values() if dtype.isbuiltin == 1]


def bits(dtype, shape):
    """Random bytes: NaN with payloads, subnormal numbers and −0 among them."""
    data = np.frombuffer(RNG.bytes(int(np.prod(shape)) * dtype.itemsize), np.uint8)
    return (data % 2 if dtype == np.bool_ else data).view(dtype).reshape(shape)


def arrays(dtypes):
    """One array of each type, and shapes and names that are odd."""
    found = {f"layer.{dtype}": bits(dtype, (3, 5)) for dtype in dtypes}
    odd = {"scalar": (), "empty": (0, 3), "no columns": (3, 0), "größe/名": (2,), "n" * 300: (1, 1, 1, 1, 7)}
    return found | {name: bits(np.dtype(np.float32), shape) for name, shape in odd.items()}


def write(path, container, found):
    planned.write(path, "dense", container, {name: (array, None) for name, array in found.items()})


def plan(container, sizes, wrapper=None) -> PlannedFile:
    tensors = [Tensor(name, {name: array}, (name,)) for name, array in sizes.items()]
    (file,) = get(container).plan(tensors, lambda _: About(wrapper=wrapper), 0)
    return file


def same(found, wanted):
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_it(mmap, tmp_path):
    wanted = arrays(DTYPES.values())
    write(tmp_path / "x.pt", "torch_zip", wanted)
    found = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mmap)
    assert type(found).__name__ == "OrderedDict"
    for tensor in found.values():
        assert tensor.is_contiguous()
        assert tensor.stride() == torch.empty(tensor.shape).stride()
        assert not tensor.requires_grad
    same({name: to_numpy(tensor) for name, tensor in found.items()}, wanted)


def test_numpy_loads_it(tmp_path):
    wanted = arrays(OF_NUMPY)
    write(tmp_path / "x.npz", "npz", wanted)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        same(found, wanted)


@pytest.mark.parametrize(("container", "dtypes"), [("torch_zip", DTYPES.values()), ("npz", OF_NUMPY)])
def test_sift_reads_it(container, dtypes, tmp_path):
    wanted = arrays(dtypes)
    write(tmp_path / "x", container, wanted)
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.format == container
        same({name: checkpoint.read(name) for name in checkpoint.tensors}, wanted)


@pytest.mark.parametrize("container", ["torch_zip", "npz"])
def test_the_archive_is_sound(container, tmp_path):
    write(tmp_path / "x", container, arrays(OF_NUMPY))
    subprocess.run([sys.executable, "-m", "zipfile", "-t", "x"], cwd=tmp_path, check=True)
    data = (tmp_path / "x").read_bytes()
    with zipfile.ZipFile(tmp_path / "x") as archive:
        for info in archive.infolist():
            assert (info.compress_type, info.date_time) == (zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))
            said = struct.unpack_from("<3I", data, info.header_offset + 14)  # what readers of streams go by
            assert said == (info.CRC, info.compress_size, info.file_size)


@pytest.mark.parametrize("container", ["torch_zip", "npz"])
def test_the_data_are_aligned(container):
    places = plan(container, {"a" * n: Array("F32", (n,)) for n in range(1, 200)}).places
    assert [place % 64 for place in places.values()] == [0] * 199


@pytest.mark.parametrize("container", ["torch_zip", "npz"])
def test_the_same_tensors_make_the_same_bytes(container):
    found = arrays(OF_NUMPY)
    sizes = {name: Array(next(key for key in DTYPES if DTYPES[key] == a.dtype), a.shape) for name, a in found.items()}
    data = {name: array.tobytes() for name, array in found.items()}
    one, two = (planned.filled(plan(container, sizes), data) for _ in range(2))
    assert one == two


def test_weights_below_a_key(tmp_path):
    file = plan("torch_zip", {"w": Array("F32", (2,))}, wrapper="model")
    (tmp_path / "x").write_bytes(planned.filled(file, {"w": np.float32([1, 2]).tobytes()}))
    found = torch.load(tmp_path / "x", weights_only=True)
    assert list(found) == ["model"]
    assert found["model"]["w"].tolist() == [1, 2]


def zeros(count):
    """CRC-32 of so many zero bytes, of which nobody has to make 8 GB."""
    crc, step = 0, 2**24
    block = zlib.crc32(bytes(step))
    for _ in range(count // step):
        crc = _crc32.joined(crc, block, step)
    return zlib.crc32(bytes(count % step), crc)


@pytest.mark.parametrize("container", ["torch_zip", "npz"])
def test_more_than_4_gb(container, tmp_path):
    """Of a file with holes: one tensor that is larger itself, and two that lie behind."""
    sizes = {"a": Array("U8", (5,)), "large": Array("F32", (2**31,)), "b": Array("U8", (5,)), "c": Array("I64", (1,))}
    file = plan(container, sizes)
    data = {"a": b"first", "b": b"after", "c": (2**40).to_bytes(8, "little")}
    sums = {name: zlib.crc32(some) for name, some in data.items()} | {"large": zeros(2**33)}
    with open(tmp_path / "x", "wb") as output:
        os.truncate(output.fileno(), file.size)
        for at, some in [*file.frame(sums), *((file.places[name], some) for name, some in data.items())]:
            os.pwrite(output.fileno(), some, at)
    with zipfile.ZipFile(tmp_path / "x") as archive:
        infos = {info.file_size: info for info in archive.infolist()}
        large = next(info for size, info in infos.items() if size >= 2**33)
        assert large.compress_size == large.file_size
        with archive.open(large) as member:
            assert member.read(6) == (b"\x93NUMPY" if container == "npz" else bytes(6))
        for name in archive.namelist():
            if name.removesuffix(".npy") in ("b", "c", "archive/data/2", "archive/data/3"):
                assert archive.read(name).endswith((b"after", data["c"]))
    if container == "torch_zip":
        found = torch.load(tmp_path / "x", weights_only=True, mmap=True)
        assert bytes(found["b"].tolist()) == b"after"
        assert found["c"].item() == 2**40
        assert found["large"].shape == (2**31,)
        assert found["large"][-1] == 0
    else:
        with np.load(tmp_path / "x") as found:
            assert found["b"].tobytes() == b"after"
            assert found["c"].tolist() == [2**40]
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.read("b").tobytes() == b"after"
        assert checkpoint.tensors["large"].shape == (2**31,)


def test_checksums_of_more_than_4_gb():
    assert zeros(2**33) == _crc32.joined(zeros(2**32), zeros(2**32), 2**32)
    assert zeros(100_000_007) == zlib.crc32(bytes(100_000_007))


def test_more_members_than_16_bits_count(tmp_path):
    count = 2**16 + 10
    file = plan("torch_zip", {f"{n}": Array("U8", ()) for n in range(count)})
    (tmp_path / "x").write_bytes(planned.filled(file, {f"{n}": bytes([n % 256]) for n in range(count)}))
    with zipfile.ZipFile(tmp_path / "x") as archive:
        assert len(archive.namelist()) == count + 3
        assert archive.read("archive/data/65540") == bytes([65540 % 256])
    found = torch.load(tmp_path / "x", weights_only=True, mmap=True)  # whose reader goes by the count
    assert found["65540"].item() == 65540 % 256


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_joined_checksums(first, second):
    assert _crc32.joined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn], ids=str)
def test_npz_has_no_bfloat16(dtype, tmp_path):
    with pytest.raises(ExportError, match=r"'w' is .*, which a \.npz file has no type for") as refused:
        write(tmp_path / "x.npz", "npz", {"w": np.ones(2, dtype)})
    assert refused.value.hint == "convert it: --dtype fp32"


@pytest.mark.parametrize(
    ("name", "why"), [("a\0b", "a zero byte"), ("\ud800", "no Unicode"), ("n" * 2**16, "65540 bytes")], ids=ascii
)
def test_names_that_an_archive_cannot_hold(name, why):
    with pytest.raises(ExportError, match=why):
        plan("npz", {name: Array("U8", (1,))})


@pytest.mark.parametrize("container", ["torch_zip", "npz"])
def test_a_name_twice(container):
    tensors = [Tensor(name, {"w_mask": Array("U8", (1,))}, ()) for name in ("w", "w_mask")]
    with pytest.raises(ExportError, match="'w_mask' needs the name 'w_mask', which another tensor has"):
        get(container).plan(tensors, lambda _: About(), 0)
