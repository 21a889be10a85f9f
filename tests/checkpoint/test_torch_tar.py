"""The tar files of PyTorch 0.1: what sift reads without torch is what ``torch.load`` reads, and nothing more."""

import io
import pickle
import struct
import tarfile
from collections import OrderedDict

import pytest
import torch
import torch01
from attacks.mutations import blocks
from attacks.promise import keep
from torch import nn

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint._bytes import ByteFile
from sift_cli.checkpoint.torch_arrays import from_numpy
from sift_cli.errors import CheckpointError, Malformed, UnsafePickle

STORAGES = ("Double", "Float", "Half", "Long", "Int", "Short", "Char", "Byte")


def layouts() -> OrderedDict[str, torch.Tensor]:
    base = torch.arange(60.0)
    grid = base.reshape(3, 4, 5)
    tied = torch.ones(2, 3)
    return OrderedDict(
        whole=base, view=base[10:20], overlapping=base[18:30], end=base[59:], transposed=grid[0].T,
        permuted=grid.permute(1, 2, 0), strided=grid[:, 1:3, ::2], expanded=base[3:5].reshape(2, 1).expand(2, 7),
        tied=tied, again=tied, same_storage=tied[:], parameter=nn.Parameter(base[5:9]),
        frozen=nn.Parameter(torch.ones(2), requires_grad=False), empty=torch.ones(3, 0),
        special=torch.tensor([-0.0, float("nan"), float("inf"), 1e-45]),
    )  # fmt: skip


def assert_as_torch_reads(path, state=None):
    expected = torch.load(path, weights_only=False) if state is None else state
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "torch_tar"
        assert list(checkpoint.tensors) == list(expected)
        for name, tensor in expected.items():
            found = from_numpy(checkpoint.read(name))
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
            assert found.numpy().tobytes() == tensor.detach().contiguous().numpy().tobytes(), name


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_every_layout(protocol, tmp_path):
    state = layouts()
    (tmp_path / "x").write_bytes(torch01.save(state, protocol=protocol))
    assert_as_torch_reads(tmp_path / "x")
    assert_as_torch_reads(tmp_path / "x", state)


@pytest.mark.parametrize("kind", STORAGES)
def test_every_storage(kind, tmp_path):
    tensor = getattr(torch, f"{kind}Tensor")([[0, 1, 2], [3, 4, 127]])
    (tmp_path / "x").write_bytes(torch01.save({"w": tensor, "t": tensor.t(), "v": tensor[1]}))
    assert_as_torch_reads(tmp_path / "x")
    assert_as_torch_reads(tmp_path / "x", {"w": tensor, "t": tensor.t(), "v": tensor[1]})


def test_views_of_storages(tmp_path):
    """What shares memory with another, as a model flattened for cuDNN has it, may be a storage that is a part of it."""
    state = layouts()
    parts = [state[name] for name in ("view", "overlapping", "transposed", "strided", "end", "same_storage")]
    data = torch01.save(state, parts)
    assert len(pickle.loads(pickle_at_the_end(torch01.members(state, parts)["storages"]))) == len(parts)
    (tmp_path / "x").write_bytes(data)
    assert_as_torch_reads(tmp_path / "x")
    assert_as_torch_reads(tmp_path / "x", state)


def pickle_at_the_end(storages: bytes) -> bytes:
    return storages[storages.rindex(b"\x80\x02") :]


def test_a_view_of_a_view(tmp_path):
    contents = torch01.members({"w": (base := torch.arange(10.0))[2:8]}, [])
    assert base[3:5].tolist() == [3, 4]
    # (its key, that of what it is a part of, its first element, its number of elements)
    keys = {name: 94_200_000_000_000 + number for number, name in enumerate("ab")}
    views = [(keys["a"], 94_100_000_000_000, 2, 6), (keys["b"], keys["a"], 1, 2)]
    contents["storages"] = contents["storages"].removesuffix(pickle.dumps([], 2)) + pickle.dumps(views, 2)
    contents["tensors"] = tensors((7, keys["b"], [2], [1], 0))
    contents["pickle"] = refers_to(7)
    (tmp_path / "x").write_bytes(torch01.archive(contents))
    assert torch.load(tmp_path / "x", weights_only=False)["w"].tolist() == [3, 4]
    assert_as_torch_reads(tmp_path / "x")


def tensors(*described) -> bytes:
    parts = [pickle.dumps(len(described), 2)]
    for key, storage, shape, strides, first in described:
        parts.append(pickle.dumps((key, storage, torch.FloatTensor), 2) + struct.pack("<q", len(shape)))
        parts.append(struct.pack(f"<{2 * len(shape) + 1}q", *shape, *strides, first))
    return b"".join(parts)


def refers_to(*keys) -> bytes:
    """The pickle of tensors called w, v, u by their keys, as strings or as they are."""
    given = b"".join(
        pickle.dumps(name, 2)[2:-1] + pickle.dumps(key if type(key) is tuple else str(key), 2)[2:-1] + b"Q"
        for name, key in zip("wvu", keys, strict=False)
    )
    return b"\x80\x02}(" + given + b"u."


@pytest.mark.parametrize("of", [nn.Parameter, torch.autograd.Variable])
def test_variables_by_their_state(of, tmp_path):
    """The first ones had their values there: values, None, hooks, whether they need a gradient, whether volatile."""
    contents = torch01.members({"w": torch.arange(3.0)})
    made = f"c{of.__module__}\n{of.__name__}\n".encode()
    tensor = pickle.dumps(str(94_000_000_000_000), 2)[2:-1] + b"Q"
    for given in (made + b")\x81(" + tensor + b"NN\x88\x89tb", made + tensor + b"\x85R\x88\x89N\x87b"):
        contents["pickle"] = b"\x80\x02}X\x01\0\0\0w" + given + b"s."
        (tmp_path / "x").write_bytes(torch01.archive(contents))
        assert torch.load(tmp_path / "x", weights_only=False)["w"].tolist() == [0, 1, 2]
        assert_as_torch_reads(tmp_path / "x")


def test_a_tensor_given_another_storage(tmp_path):
    """PyTorch takes four things in a state for a storage and how the tensor lies in it."""
    contents = torch01.members({"w": torch.ones(3), "v": torch.zeros(3)})
    tensor, storage = (pickle.dumps(str(key), 2)[2:-1] + b"Q" for key in (94_000_000_000_000, 94_100_000_000_001))
    for made in (tensor, b"ctorch.autograd.variable\nVariable\n" + tensor + b"\x85R"):
        contents["pickle"] = b"\x80\x02}X\x01\0\0\0w" + made + b"(" + storage + b"K\0K\3\x85K\1\x85tbs."
        (tmp_path / "x").write_bytes(torch01.archive(contents))
        assert torch.load(tmp_path / "x", weights_only=False)["w"].tolist() == [0, 0, 0]
        with pytest.raises(Malformed, match="tensor 'w'"):
            open_checkpoint(tmp_path / "x")


def test_a_training_checkpoint(tmp_path):
    inner = OrderedDict(("module." + name, value) for name, value in layouts().items())
    root = {"epoch": 3, "best": 0.5, "arch": "alexnet", "state_dict": inner, "optimizer": {"state": {0: torch.ones(2)}}}
    (tmp_path / "x").write_bytes(torch01.save(root))
    assert_as_torch_reads(tmp_path / "x", inner)
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.wrapper == "state_dict"
        assert checkpoint.ignored == ("epoch", "best", "arch", "optimizer")


def test_a_tensor_without_a_storage_is_empty(tmp_path):
    """As all tensors without elements were; PyTorch of today cannot load them."""
    contents = torch01.members({"w": torch.ones(2)})
    key = 94_000_000_000_000
    contents["tensors"] = tensors((key, 94_100_000_000_000, [2], [1], 0), (8, None, [], [], 0))
    contents["pickle"] = refers_to(key, 8)
    (tmp_path / "x").write_bytes(torch01.archive(contents))
    assert_as_torch_reads(tmp_path / "x", {"w": torch.ones(2), "v": torch.FloatTensor()})


def test_a_pickled_module_is_refused_and_read_when_allowed(tmp_path):
    (tmp_path / "x").write_bytes(torch01.save(model := nn.Sequential(nn.Linear(2, 3))))
    with pytest.raises(UnsafePickle) as raised:
        open_checkpoint(tmp_path / "x")
    assert "torch.nn.modules.linear.Linear" in raised.value.fields["globals"]
    with open_checkpoint(tmp_path / "x", allow_pickle=True) as checkpoint:
        assert checkpoint.format == "torch_tar"
        assert checkpoint.read("0.weight").tolist() == model[0].weight.tolist()


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(torch01.save({"a": torch.ones(2**20), "b": torch.arange(5.0)}))
    read = []
    real = ByteFile.read
    monkeypatch.setattr(
        ByteFile, "read", lambda self, at, count, what: read.append(count) or real(self, at, count, what)
    )
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.read("b").tolist() == [0, 1, 2, 3, 4]
    assert sum(read) < 2**18


# -- what no file of PyTorch's says ------------------------------------------------------------------------------------

KEY, STORAGE, VIEW = 94_000_000_000_000, 94_100_000_000_000, 94_200_000_000_000
WHOLE = (KEY, STORAGE, [4], [1], 0)


def changed(views=None, **more: bytes) -> dict[str, bytes]:
    """The members of {"w": four numbers}, some of them others, in the end with ``views``."""
    contents = {**torch01.members({"w": torch.arange(4.0)}), **more}
    if views is not None:
        contents["storages"] = contents["storages"].removesuffix(pickle.dumps([], 2)) + pickle.dumps(views, 2)
    return contents


def storages(count: int, kind: object = torch.FloatStorage, data: bytes = bytes(16), key: object = STORAGE) -> bytes:
    return pickle.dumps((key, "cpu", kind), 2) + struct.pack("<q", count) + data


NONE = pickle.dumps([], 2)
ONE, TWO = pickle.dumps(1, 2), pickle.dumps(2, 2)
LIES = {
    "a shape beyond the storage": (changed(tensors=tensors((KEY, STORAGE, [5], [1], 0))), "byte 20 of a storage of 16"),
    "a stride beyond the storage": (changed(tensors=tensors((KEY, STORAGE, [2], [4], 0))), "byte 20"),
    "an offset beyond the storage": (changed(tensors=tensors((KEY, STORAGE, [4], [1], 1))), "byte 20"),
    "a negative offset": (changed(tensors=tensors((KEY, STORAGE, [1], [1], -1))), "not non-negative integers"),
    "a negative stride": (changed(tensors=tensors((KEY, STORAGE, [2], [-1], 1))), "not non-negative integers"),
    "a negative shape": (changed(tensors=tensors((KEY, STORAGE, [-2], [1], 0))), "is not a shape"),
    "2^60 elements": (changed(tensors=tensors((KEY, STORAGE, [2**60], [1], 0))), "reaches to byte"),
    "2^100 elements": (changed(tensors=tensors((KEY, STORAGE, [2**50, 2**50], [0, 0], 0))), "more than 2^63 bytes"),
    "65 axes": (changed(tensors=tensors((KEY, STORAGE, [1] * 65, [1] * 65, 0))), "a tensor of 65 axes"),
    "2^31 - 1 axes": (
        changed(tensors=tensors(WHOLE)[: -24 - 8] + struct.pack("<i4x", 2**31 - 1) + bytes(24)), "axes",
    ),
    "-1 axes": (changed(tensors=tensors(WHOLE)[: -24 - 8] + struct.pack("<i4x", -1) + bytes(24)), "of -1 axes"),
    "a storage that is not there": (changed(tensors=tensors((KEY, 1, [4], [1], 0))), "does not write"),
    "no storage and a shape": (changed(tensors=tensors((KEY, None, [4], [1], 0))), "does not write"),
    "a storage of a string": (changed(tensors=tensors((KEY, str(STORAGE), [4], [1], 0))), "does not write"),
    "one tensor twice": (changed(tensors=tensors(WHOLE, WHOLE)), "there twice"),
    "a tensor with a storage's key": (changed(tensors=tensors((STORAGE, STORAGE, [4], [1], 0))), "there twice"),
    "more tensors than there are": (changed(tensors=TWO + tensors(WHOLE)[len(ONE) :]), "'tensors'"),
    "fewer tensors than there are": (changed(tensors=pickle.dumps(0, 2) + tensors(WHOLE)[len(ONE) :]), "goes on after"),
    "2^40 tensors": (changed(tensors=pickle.dumps(2**40, 2)), "does not say how many"),
    "-1 tensors": (changed(tensors=pickle.dumps(-1, 2)), "does not say how many"),
    "a tensor that is not there": (changed(pickle=refers_to(7)), "refers to '7'"),
    "a tensor by another spelling": (changed(pickle=refers_to(f" {KEY}")), "refers to ' 94"),
    "a tensor by a number of 5000 digits": (changed(pickle=refers_to("9" * 5000)), "refers to '999"),
    "2^60 numbers in a storage": (changed(storages=ONE + storages(2**60) + NONE), "ends too early"),
    "a storage of -1 numbers": (changed(storages=ONE + storages(-1) + NONE), "-1 elements"),
    "a storage that reaches into the next member": (changed(storages=ONE + storages(40) + NONE), "ends too early"),
    "no storage's class": (changed(storages=ONE + storages(4, torch.FloatTensor) + NONE), "a storage of type"),
    "a storage of bytes": (changed(storages=ONE + storages(4, torch.UntypedStorage) + NONE), "does not write"),
    "one storage twice": (changed(storages=TWO + storages(4) + storages(4) + NONE), f"key {STORAGE} twice"),
    "no list of views": (changed(storages=ONE + storages(4)), "'storages'"),
    "a view of what is not there": (changed([(VIEW, 1, 0, 1)]), "does not write"),
    "a view of itself": (changed([(VIEW, VIEW, 0, 1)]), "does not write"),
    "a view beyond": (changed([(VIEW, STORAGE, 2, 3)]), "a view lies outside"),
    "a view from before": (changed([(VIEW, STORAGE, -1, 2)]), "a view lies outside"),
    "a view of -1 numbers": (changed([(VIEW, STORAGE, 2, -1)]), "-1"),
    "a view with a storage's key": (changed([(STORAGE, STORAGE, 0, 1)]), "twice"),
    "a tensor beyond its view": (
        changed([(VIEW, STORAGE, 1, 2)], tensors=tensors((KEY, VIEW, [3], [1], 0))), "byte 12 of a storage of 8",
    ),
    "something after the object": (changed(pickle=refers_to(KEY) + b"."), "goes on after its end"),
    "views that go on": (changed(storages=ONE + storages(4) + NONE + b"\0"), "goes on after its end"),
    "a big machine": (changed(sys_info=pickle.dumps({"little_endian": False}, 2)), "big-endian"),
    "an entry of a thousand lists": (
        changed(tensors=ONE + b"\x80\x02(" + b"]" * 1000 + b"t."), "more than 32 instructions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lies(lie, tmp_path):
    contents, why = LIES[lie]
    (tmp_path / "x").write_bytes(torch01.archive(contents))
    error = keep(tmp_path / "x")
    assert isinstance(error, CheckpointError)
    assert why in str(error)


def test_the_lies_begin_with_the_truth(tmp_path):
    truth = changed([(VIEW, STORAGE, 1, 2)], tensors=tensors(WHOLE), pickle=refers_to(KEY))
    whole = changed(tensors=tensors(WHOLE), storages=ONE + storages(4, data=bytes(16)) + NONE)
    for contents, values in ((truth, [0, 1, 2, 3]), (whole, [0, 0, 0, 0]), (without(truth, "sys_info"), [0, 1, 2, 3])):
        (tmp_path / "x").write_bytes(torch01.archive(contents))
        assert torch.load(tmp_path / "x", weights_only=False)["w"].tolist() == values
        assert_as_torch_reads(tmp_path / "x")


def without(contents: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: value for key, value in contents.items() if key != name}


# -- tar headers -------------------------------------------------------------------------------------------------------


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar file of headers that may say anything."""
    return blocks(
        b"".join(info.tobuf(tarfile.PAX_FORMAT) + blocks(data) for info, data in members) + bytes(1024), 10240
    )


def info(name: str, content: bytes, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    found = tarfile.TarInfo(name)
    found.size = len(content)
    for field, value in fields.items():
        setattr(found, field, value)
    return found, content


def archives() -> dict[str, tuple[bytes, str]]:
    """Tar files, and why each is refused; "" where it is not."""
    contents = changed()
    plain = [info(name, content) for name, content in contents.items()]
    first, rest = contents["sys_info"], plain[1:]
    last, before = contents["storages"], plain[:-1]
    data = packed(*plain)
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    checksum = bytearray(data)
    checksum[148:156] = b"0000001\0"
    gnu = b"".join(one.tobuf(tarfile.GNU_FORMAT) + blocks(content) for one, content in plain)
    odd = {f"{n}a": "b" for n in range(9000)}
    return {
        "plain": (data, ""),
        "GNU": (blocks(gnu + bytes(1024), 10240), ""),
        "in another order": (packed(*plain[::-1]), ""),
        "a size in the extended header": (
            packed(*before, info("storages", last, pax_headers={"size": str(len(last))})), "",
        ),
        "a wrong sum": (bytes(checksum), "it is no header"),
        "a member twice": (packed(*plain, info("pickle", b"")), "'pickle' is there twice"),
        "a member twice by its extended header": (
            packed(*plain, info("x", b"", pax_headers={"path": "pickle"})), "'pickle' is there twice",
        ),
        "no storages": (packed(*before), "it has no 'storages'"),
        "no pickle": (packed(plain[0], *plain[2:]), "it has no 'pickle'"),
        "another member": (packed(*plain, info("../secret", b"x")), "did not write: it has a member '../secret'"),
        "an absolute name": (packed(*plain, info("/etc/passwd", b"x")), "did not write"),
        "a name in a folder": (packed(info("./sys_info", first), *rest), "did not write"),
        "a link": (packed(*before, info("storages", b"", type=b"2", linkname="../secret")), "'storages' is no file"),
        "a hard link": (packed(*before, info("storages", b"", type=b"1", linkname="pickle")), "'storages' is no file"),
        "a folder": (packed(*before, info("storages", b"", type=b"5")), "it has a member 'storages/'"),
        "a device": (packed(*before, info("storages", b"", type=b"3")), "'storages' is no file"),
        "a contiguous file": (packed(*before, info("storages", last, type=b"7")), "'storages' is no file"),
        "a sparse file": (packed(*before, info("storages", last, type=b"S")), "'storages' is no file"),
        "a sparse file by its extended header": (
            packed(*before, info("storages", last, pax_headers={"GNU.sparse.size": "9"})), "extended header",
        ),
        "a long name": (packed(*before, info("././@LongLink", b"storages\0", type=b"L"), plain[-1]), "did not write"),
        "a global extended header": (packed(info("x", b"13 size=9999\n", type=b"g"), *plain), "did not write"),
        "an extended header twice": (
            packed(info("x", b"10 size=1\n", type=b"x"), info("x", b"10 size=1\n", type=b"x"), *plain), "did not write",
        ),
        "an extended header with a size twice": (
            packed(info("x", b"10 size=1\n10 size=2\n", type=b"x"), *plain), "extended header has b'10 size=2",
        ),
        "an extended header of nothing": (packed(*plain, info("x", b"10 size=1\n", type=b"x")), "it is no header"),
        "an extended header of no records": (packed(info("x", b"size=1\n", type=b"x"), *plain), "of records"),
        "an extended header that is too short": (packed(info("x", b"99 size=1\n", type=b"x"), *plain), "of records"),
        "an extended header with a negative size": (
            packed(info("sys_info", first, pax_headers={"size": "-1"}), *rest), "extended header",
        ),
        "an extended header with a size of 2^70": (
            packed(*before, info("storages", last, pax_headers={"size": str(2**70)})), "it needs bytes",
        ),
        "a large extended header": (packed(info("sys_info", first, pax_headers=odd), *rest), "an extended header of"),
        "a size beyond the file": (packed(*before, info("storages", last, size=2**32)), "it needs bytes"),
        "a size beyond an octal number": (packed(*before, info("storages", last, size=2**40)), "it needs bytes"),
        "a size that cuts": (packed(*before, info("storages", last, size=len(last) - 1)), "'storages'"),
        "a size into the next member": (packed(info("sys_info", first, size=1024), *rest), "it is no header"),
        "bytes at its end": (data[:-1] + b"x", "its end"),
        "a member behind its end": (blocks(data[:end] + bytes(1024) + data, 10240), "its end"),
        "no end": (data[:end], f"it needs bytes {end}"),
        "an end without its last block": (data[:-512], "its end"),
        "half an end": (data[: end + 512], "its end"),
        "megabytes of zeros": (data + bytes(2**20), "its end"),
    }  # fmt: skip


@pytest.mark.parametrize("case", archives())
def test_archives(case, tmp_path):
    data, why = archives()[case]
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "x").write_bytes(data)
    error = keep(folder / "x")
    if why:
        assert isinstance(error, CheckpointError)
        assert why in str(error)
    else:
        assert error is None
        assert_as_torch_reads(folder / "x")


def test_a_tar_file_of_something_else_says_what_to_do(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("model/weights.pt"), io.BytesIO(b""))
    with pytest.raises(CheckpointError, match=r"it has a member 'model/weights\.pt'") as raised:
        open_checkpoint(tmp_path / "x.tar")
    assert raised.value.hint == "unpack it, and name the checkpoint inside it"


def many(count: int, shape: list[int]) -> list[tuple]:
    return [(number, STORAGE, shape, [0] * len(shape), 0) for number in range(count)]


LARGE = {
    "tensors": (changed(tensors=tensors(*many(40_000, [4])), pickle=refers_to(7)), ""),
    "tensors of 64 axes": (changed(tensors=tensors(*many(9000, [1000] * 64), WHOLE), pickle=refers_to(KEY)), ""),
    "views": (
        changed(
            [(number, STORAGE, 0, 4) for number in range(40_000)],
            tensors=tensors((KEY, 7, [4], [1], 0)), pickle=refers_to(KEY),
        ),
        "",
    ),
    "more views than instructions": (changed([(number, STORAGE, 0, 4) for number in range(400_000)]), "instructions"),
    "tensors without a number": (changed(tensors=pickle.dumps(10**6, 2) + NONE * 10**6), "does not say how many"),
    "lists in the pickle": (changed(pickle=b"\x80\x02(" + b"]" * 5_000_000 + b"l."), "instructions"),
}  # fmt: skip


@pytest.mark.parametrize("case", LARGE)
def test_large_structures_keep_to_time_and_memory(case, tmp_path):
    contents, why = LARGE[case]
    (tmp_path / "x").write_bytes(torch01.archive(contents))
    error = keep(tmp_path / "x")
    assert why in str(error) if why else error is None
