"""Pickles that want to run, in every kind of file that holds one. Nothing of them may run, and each is refused."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import pytest
import torch
import torch01
from torch import nn

from sift_cli.checkpoint import open_checkpoint
from sift_cli.errors import CheckpointError, Malformed, UnsafePickle

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def as_zip(data: bytes, **records: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", data)
        for name, content in records.items():
            archive.writestr(f"x/{name.replace('__', '/').replace('_pkl', '.pkl')}", content)
    return buffer.getvalue()


def as_legacy(data: bytes) -> bytes:
    return MAGIC + data + pickle.dumps([], 2)


def as_torchscript(data: bytes) -> bytes:
    return as_zip(data, constants_pkl=pickle.dumps((), 2))


WRAP = {"zip": as_zip, "legacy": as_legacy, "torchscript": as_torchscript}


class Runs:
    """Unpickles to a call of ``function(*args)``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def bombs(marker: str) -> dict[str, tuple[bytes, str]]:
    """Pickles that create ``marker`` when they run, and a global that each needs."""
    touch = f"touch {marker}"
    state = {"w": torch.zeros(2).tolist(), "evil": Runs(os.system, touch)}
    inst = f"(S'{touch}'\nios\nsystem\n.".encode()
    obj = f"(cos\nsystem\nS'{touch}'\no.".encode()
    stack_global = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(touch)]) + touch.encode() + b"\x85R."
    memoized = (
        b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94h\x01h\x00\x93\x8c" + bytes([len(touch)]) + touch.encode() + b"\x85R."
    )
    newobj = f"\x80\x02csubprocess\nPopen\n(X{chr(len(touch))}\0\0\0{touch}I-1\nNI1\nNNNI1\nI1\nt\x81.".encode(
        "latin-1"
    )
    in_build = (
        b"\x80\x02ccollections\nOrderedDict\n)R}(X\x0c\0\0\0__setstate__cos\nsystem\nub"
        + f"X{chr(len(touch))}\0\0\0{touch}b.".encode("latin-1")
    )
    return {
        "reduce": (pickle.dumps(Runs(os.system, touch), 2), f"{os.name}.system"),
        "reduce protocol 0": (pickle.dumps(Runs(os.system, touch), 0), f"{os.name}.system"),
        "reduce protocol 5": (pickle.dumps(Runs(os.system, touch), 5), f"{os.name}.system"),
        "beside tensors": (pickle.dumps(state, 2), f"{os.name}.system"),
        "eval": (pickle.dumps(Runs(eval, f"open({marker!r}, 'w')"), 4), "builtins.eval"),
        "exec in a key": (pickle.dumps({"a": [Runs(exec, f"open({marker!r}, 'w')")]}, 2), "__builtin__.exec"),
        "getattr chain": (
            pickle.dumps(Runs(getattr, Runs(__import__, "os"), "system"), 4),
            "builtins.__import__",
        ),
        "inst": (inst, "os.system"),
        "obj": (obj, "os.system"),
        "stack global": (stack_global, "os.system"),
        "stack global from the memo": (memoized, "os.system"),
        "newobj": (newobj, "subprocess.Popen"),
        "setstate": (in_build, "os.system"),
        "torch.load of a second file": (pickle.dumps(Runs(torch.load, marker), 2), "torch.serialization.load"),
        "torch.load of bytes": (
            pickle.dumps(Runs(torch.storage._load_from_bytes, pickle.dumps(Runs(os.system, touch))), 2),
            "torch.storage._load_from_bytes",
        ),
        "extension registry": (b"\x80\x02\x82\x01)R.", "copyreg extension 1"),
    }


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("bomb", bombs("x"))
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(kind, bomb, tmp_path):
    marker = tmp_path / "ran"
    data, needs = bombs(str(marker))[bomb]
    path = tmp_path / "model.pt"
    path.write_bytes(WRAP[kind](data))
    with pytest.raises(UnsafePickle) as raised:
        open_checkpoint(path)
    assert needs in raised.value.fields["globals"]
    assert "--allow-pickle" in raised.value.hint
    assert not marker.exists()


@pytest.mark.parametrize("bomb", bombs("x"))
def test_torchscript_runs_nothing(bomb, tmp_path):
    marker = tmp_path / "ran"
    path = tmp_path / "model.pt"
    path.write_bytes(as_torchscript(bombs(str(marker))[bomb][0]))
    with pytest.raises(CheckpointError):
        open_checkpoint(path, allow_pickle=True)
    assert not marker.exists()


@pytest.mark.parametrize("bomb", ["reduce", "eval", "stack global", "inst", "obj"])
def test_the_bombs_are_live(bomb, tmp_path):
    """Each of them does run under the standard library's pickle, or the tests above would prove nothing."""
    marker = tmp_path / "ran"
    data, _ = bombs(str(marker))[bomb]
    subprocess.run([sys.executable, "-c", "import pickle, sys; pickle.load(sys.stdin.buffer)"], input=data, check=False)
    assert marker.exists()


@pytest.mark.parametrize("member", ["sys_info", "pickle", "tensors", "storages"])
@pytest.mark.parametrize("bomb", bombs("x"))
def test_no_member_of_a_tar_runs(member, bomb, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    data, needs = bombs(str(marker))[bomb]
    path.write_bytes(torch01.archive({**torch01.members({"w": torch.ones(2)}), member: data}))
    with pytest.raises(UnsafePickle) as raised:
        open_checkpoint(path)
    assert needs in raised.value.fields["globals"]
    assert not marker.exists()


def test_a_pickled_module_lists_what_it_needs(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(nn.Sequential(nn.Linear(2, 3)), path)
    with pytest.raises(UnsafePickle) as raised:
        open_checkpoint(path)
    assert raised.value.fields["globals"] == ["torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Linear"]
    assert raised.value.exit_code == 3


def tensor_pickle(count=4, offset=0, size=(2, 2), stride=(2, 1), key=b"0", storage=b"torch\nFloatStorage") -> bytes:
    """The pickle of {"w": a tensor}, with every number free to lie."""

    def integer(n: int) -> bytes:
        return b"\x8a\x10" + n.to_bytes(16, "little", signed=True)

    def numbers(values) -> bytes:
        return b"(" + b"".join(map(integer, values)) + b"t"

    reference = b"(U\x07storagec" + storage + b"\nU" + bytes([len(key)]) + key + b"U\x03cpu" + integer(count) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + integer(offset) + numbers(size) + numbers(stride)
    return b"\x80\x02}U\x01w" + call + b"\x89ccollections\nOrderedDict\n)RtRs."


TENSOR_LIES = {
    "more elements than the storage has": {"count": 5},
    "2^62 elements": {"count": 2**62},
    "a negative count": {"count": -4},
    "a shape beyond the storage": {"size": (2, 3)},
    "a shape of 2^60": {"size": (2**30, 2**30)},
    "a shape of 2^100": {"size": (2**100,), "stride": (1,)},
    "a negative shape": {"size": (-2, -2)},
    "an offset beyond the storage": {"offset": 1},
    "a negative offset": {"offset": -1},
    "strides beyond the storage": {"stride": (3, 1)},
    "negative strides": {"stride": (-2, 1)},
    "strides of another rank": {"stride": (1,)},
    "an expansion to 4 TB": {"size": (2**40,), "stride": (0,)},
    "a storage that is missing": {"key": b"1"},
    "a storage up the folders": {"key": b"../version"},
    "a storage of no type": {"storage": b"torch\nFloatTensor"},
}


def test_the_tensor_that_the_lies_are_made_from_is_right(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(as_zip(tensor_pickle(), data__0=struct.pack("<4f", 1, 2, 3, 4)))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("w").tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("lie", TENSOR_LIES)
def test_a_tensor_that_reaches_outside_its_storage(lie, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(as_zip(tensor_pickle(**TENSOR_LIES[lie]), data__0=struct.pack("<4f", 1, 2, 3, 4)))
    with pytest.raises(CheckpointError), open_checkpoint(path) as checkpoint:
        checkpoint.read("w")


GARBAGE = {
    "empty": b"",
    "only a stop": b".",
    "no stop": b"\x80\x02}",
    "an unknown opcode": b"\x80\x02\xff.",
    "pop of nothing": b"0.",
    "mark that is missing": b"\x80\x02t.",
    "memo that is missing": b"\x80\x02h\x05.",
    "memo of 2^32 - 1": b"\x80\x02}r\xff\xff\xff\xff.",
    "string of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of 2^62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
    "frame of 2^62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "an integer of 10,000 digits": b"I" + b"9" * 10_000 + b"\n.",
    "a string that is not UTF-8": b"\x80\x02X\x02\0\0\0\xff\xfe.",
    "items in a number": b"\x80\x02K\x01K\x02K\x03s.",
    "items in a tuple": b"\x80\x02)K\x01a.",
    "half a pair": b"\x80\x02}(K\x01u.",
    "a call of a number": b"\x80\x02K\x01)R.",
    "a call with a number": b"\x80\x02cargparse\nNamespace\nK\x01R.",
    "state of a number": b"\x80\x02K\x01}b.",
    "a global named by a number": b"\x80\x04K\x01K\x02\x93.",
    "an object of nothing": b"\x80\x02(o.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "a key that contains itself": b"\x80\x02}q\0h\0K\x01s.",
    "100,000 nested lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a key of 200,000 nested tuples": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
    "100,000 nested parameters": b"\x80\x02}U\x01w(cx\nM\nq\x010"
    + b"ctorch._utils\n_rebuild_parameter\n" * 1000
    + b")"
    + b"R\x85" * 1000
    + b"ts.",
    "a list that contains itself": b"\x80\x02]q\0h\0a.",
    "a mapping that contains itself": b"\x80\x02}q\0U\x05modelh\0s.",
    "a tensor without a name": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "a tensor without arguments": b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n)Rs.",
    "a parameter of a parameter of nothing": b"\x80\x02}U\x01w" + b"ctorch._utils\n_rebuild_parameter\n)R" + b"s.",
    "a number": b"\x80\x02K\x01.",
    "nothing in a dict": b"\x80\x02}.",
}


@pytest.mark.parametrize("kind", WRAP)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_pickle_of_garbage(kind, garbage, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(WRAP[kind](GARBAGE[garbage]))
    with pytest.raises(CheckpointError):
        open_checkpoint(path)


def test_modules_shared_at_every_level_do_not_take_for_ever(tmp_path):
    """40 modules, each twice in the next: 2^40 paths to the innermost."""
    data = b"\x80\x02c__torch__\nM\nq\0)\x81}bq\1"
    for _ in range(40):
        data += b"0h\0)\x81}(U\1ah\1U\1bh\1ubq\1"
    path = tmp_path / "model.pt"
    path.write_bytes(as_torchscript(data + b"."))
    with pytest.raises(Malformed, match="without end"):
        open_checkpoint(path)


def test_a_module_that_contains_itself(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(as_torchscript(b"\x80\x02c__torch__\nM\n)\x81q\0}U\1ah\0sb."))
    with pytest.raises(Malformed, match="without end"):
        open_checkpoint(path)


def test_a_zip_bomb(tmp_path):
    """65 MB of zeros in 65 kB, where TorchScript keeps its code."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02c__torch__\nM\n)\x81}b.")
        archive.writestr("x/constants.pkl", b"\x80\x02).")
        archive.writestr("x/code/__torch__.py", b"\0" * (65 * 2**20), zipfile.ZIP_DEFLATED)
    with pytest.raises(Malformed, match="claims to expand to 68157440 bytes"):
        open_checkpoint(path)


def test_a_pickle_is_not_decompressed(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", tensor_pickle(), zipfile.ZIP_DEFLATED)
        archive.writestr("x/data/0", struct.pack("<4f", 1, 2, 3, 4))
    with pytest.raises(CheckpointError, match=r"holds 'x/data\.pkl' compressed"):
        open_checkpoint(path)


def test_a_damaged_pickle_is_noticed_by_its_checksum(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(as_zip(tensor_pickle(), data__0=b"\0" * 16).replace(b"U\x01w", b"U\x01v", 1))
    with pytest.raises(Malformed, match="checksum"):
        open_checkpoint(path)


def test_compressed_tensors_are_refused_with_the_way_out(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", tensor_pickle())
        archive.writestr("x/data/0", struct.pack("<4f", 1, 2, 3, 4))
    with pytest.raises(CheckpointError, match="compressed") as raised:
        open_checkpoint(path)
    assert "zip -0" in raised.value.hint


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_that_is_there_twice(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            archive.writestr("x/data.pkl", tensor_pickle())
    with pytest.raises(Malformed, match="twice"):
        open_checkpoint(path)


def test_two_checkpoints_in_one_zip(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for folder in "ab":
            archive.writestr(f"{folder}/data.pkl", tensor_pickle())
    with pytest.raises(Malformed, match=r"2 records are called data\.pkl"):
        open_checkpoint(path)


def test_an_encrypted_record(tmp_path):
    data = bytearray(as_zip(tensor_pickle(), data__0=b"\0" * 16))
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with pytest.raises(Malformed, match="encrypted"):
        open_checkpoint(path)


def test_a_file_that_is_cut_off_says_how_much_is_missing(tmp_path):
    whole, path = tmp_path / "whole.pt", tmp_path / "model.pt"
    torch.save({"a": torch.zeros(250, 1000), "b": (tied := torch.ones(5)), "c": tied}, whole)
    data = whole.read_bytes()
    path.write_bytes(data[:300_000])
    with pytest.raises(Malformed) as raised:
        open_checkpoint(path)
    assert raised.value.message == (
        f"{path} is damaged at its end: it is cut off at byte 300000, and its tensors alone take 1000020: "
        "700020 or more are missing"
    )
    assert raised.value.hint == "copy or download it again"


@pytest.mark.parametrize("missing", [1, 21, 22, 100, 700])
def test_a_file_that_is_cut_off_in_its_directory(missing, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(25, 100)}, path)
    data = path.read_bytes()[:-missing]
    path.write_bytes(data)
    with pytest.raises(Malformed) as raised:
        open_checkpoint(path)
    assert f"cut off at byte {len(data)}, before the directory that a zip file ends with" in str(raised.value)
    assert raised.value.hint == "copy or download it again"


def test_a_zip_file_in_the_place_of_a_pickle(tmp_path):
    path = tmp_path / "model.pt"
    data = as_zip(tensor_pickle(), data__0=b"\0" * 16)
    for _ in range(3):
        data = as_zip(data)
    path.write_bytes(data)
    with pytest.raises(Malformed, match=r"record 'x/data\.pkl'"):
        open_checkpoint(path)


class Coo(torch.Tensor):
    """A sparse tensor made of any parts, the checks of torch left out."""

    def __reduce_ex__(self, protocol):
        size = torch.Size([4])
        return torch._utils._rebuild_sparse_tensor, (torch.sparse_coo, (self.indices_, self.values_, size, True))


@pytest.mark.parametrize("repeats", ["indices", "values"])
def test_a_sparse_tensor_that_repeats_one_element(repeats, tmp_path):
    """A file of some hundred bytes could have a million of them, whose positions take ten times as much again."""
    tensor = torch.zeros(1).as_subclass(Coo)
    tensor.indices_, tensor.values_ = torch.arange(4)[None], torch.ones(4)
    path = tmp_path / "model.pt"
    torch.save({"w": tensor}, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 1, 1, 1]
    if repeats == "indices":
        tensor.indices_ = torch.zeros(1, 1, dtype=torch.int64).expand(1, 4)
    else:
        tensor.values_ = torch.ones(1).expand(4)
    torch.save({"w": tensor}, path)
    with pytest.raises(Malformed, match="its indices or values repeat themselves"):
        open_checkpoint(path)
