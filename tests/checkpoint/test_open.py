"""Opening: what a path may be, what a file may be that is no checkpoint, prefixes, and laziness."""

import contextlib
import json
import os
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from sift_cli.checkpoint import common_prefixes, open_checkpoint, stripped
from sift_cli.checkpoint.artifact import write
from sift_cli.core.masks import Mask
from sift_cli.errors import CheckpointError, MissingTensor, Unreadable


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}.", "bare pickle"),
        (b"hello, world", "its first bytes are 68 65 6c 6c 6f 2c 20 77"),
        (b"\0", "its first bytes are 00"),
        (b"\x08", "its first bytes are 08"),
    ],
)
def test_a_file_that_is_no_checkpoint(content, why, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a checkpoint sift knows") as raised:
        open_checkpoint(path)
    assert why in str(raised.value)


def test_paths_that_cannot_be_read(tmp_path):
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name, why in {
        "missing": "there is no such file",
        "": "it is a folder",
        "empty": "it is empty",
        "pipe": "it is not a regular file",
        "dangling": "there is no such file",
        "loop": "symbolic links",
        "empty/below": "Not a directory",
        "a\0b": "null",
        "x" * 300: "too long",
    }.items():
        with pytest.raises(Unreadable) as raised:
            open_checkpoint(tmp_path / name)
        assert why in str(raised.value)
        assert raised.value.exit_code == 3


def test_a_safetensors_header_of_any_length(tmp_path):
    """The file begins with the header's length, which may spell the first byte of a pickle or "PK" of a zip."""
    text = b'{"w":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}'
    for length in [*range(len(text), len(text) + 256), 0x4B50, 0x14B50, 0x20B80]:
        (tmp_path / "y").write_bytes(length.to_bytes(8, "little") + text.ljust(length) + np.ones(2).tobytes())
        with open_checkpoint(tmp_path / "y") as checkpoint:
            assert checkpoint.read("w").tolist() == [1, 1]


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.docx", "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    with pytest.raises(CheckpointError, match="50 4b 03 04"):
        open_checkpoint(tmp_path / "x.docx")


def test_a_zip_replaced_by_another_of_the_same_size_and_time(tmp_path):
    path = tmp_path / "x"
    torch.save({"w": torch.ones(2)}, path)
    good = path.read_bytes()
    for content in (good.replace(b"/data.pkl", b"/data.xyz"), good):
        path.write_bytes(content)
        os.utime(path, (0, 0))
        with contextlib.suppress(CheckpointError), open_checkpoint(path) as checkpoint:
            found = checkpoint.read("w")
    assert found.tolist() == [1, 1]


def test_ten_gigabytes_open_at_once(tmp_path):
    """A file of 10 GB (sparse on disk) and 400 tensors: opened and one tensor read, without reading the rest."""
    each = 25_000_000
    header = {
        f"layers.{i}.weight": {"dtype": "U8", "shape": [5000, 5000], "data_offsets": [i * each, (i + 1) * each]}
        for i in range(400)
    }
    text = json.dumps(header).encode()
    with open(tmp_path / "x", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 400 * each)
    start = time.perf_counter()
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert time.perf_counter() - start < 1
        assert sum(spec.stored_bytes for spec in checkpoint.tensors.values()) == 10_000_000_000
        assert not checkpoint.read("layers.399.weight").any()


def test_opening_imports_neither_torch_nor_onnx(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt")
    write(tmp_path / "x.safetensors", {"w": np.ones(2)}, {}, {})
    code = (
        "import sys\nfrom sift_cli.checkpoint.report import inspect\n"
        "[inspect(p) for p in sys.argv[1:]]\nprint([m for m in ('torch', 'onnx', 'safetensors') if m in sys.modules])"
    )
    paths = [str(tmp_path / "x.pt"), str(tmp_path / "x.safetensors")]
    result = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_file_replaced_while_open_is_still_read(tmp_path):
    write(tmp_path / "x", {"w": np.array([1.0])}, {}, {})
    write(tmp_path / "new", {"w": np.array([2.0, 3.0])}, {}, {})
    with open_checkpoint(tmp_path / "x") as checkpoint:
        os.replace(tmp_path / "new", tmp_path / "x")
        assert checkpoint.read("w").tolist() == [1.0]


def test_a_file_cut_while_open_is_noticed(tmp_path):
    write(tmp_path / "x", {"w": np.zeros(1000)}, {}, {})
    with open_checkpoint(tmp_path / "x") as checkpoint:
        os.truncate(tmp_path / "x", 500)
        with pytest.raises(CheckpointError, match="the file ends at byte 500"):
            checkpoint.read("w")


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        ([], ""),
        (["w"], ""),
        (["conv.weight", "fc.weight"], ""),
        (["module.conv.weight", "module.fc.weight"], "module."),
        (["module._orig_mod.conv.weight", "module._orig_mod.fc.weight"], "module._orig_mod."),
        (["backbone.a", "backbone.b"], "backbone."),
        (["layer1.a", "layer10.a"], ""),
        (["a.b", "a.b.c"], "a."),
        (["a.b.c", "a.b"], "a."),
        (["fc.weight", "fc.bias"], "fc."),
        (["module.a", "b"], ""),
    ],
)
def test_common_prefixes(names, prefix):
    assert common_prefixes(names) == prefix


def test_a_stripped_view_is_the_same_checkpoint_under_other_names(tmp_path):
    kept = np.array([[True, False], [False, True]])
    tensors = {"module.conv.weight": np.where(kept, 2.0, 0.0), "module.fc.bias": np.ones(3)}
    write(tmp_path / "x", tensors, {"module.conv.weight": Mask.from_bool(kept)}, {"k": "v"})
    with open_checkpoint(tmp_path / "x") as checkpoint:
        view = stripped(checkpoint)
        assert view.prefix == "module."
        assert {name: spec.name for name, spec in view.tensors.items()} == {
            "conv.weight": "conv.weight",
            "fc.bias": "fc.bias",
        }
        assert view.read("conv.weight").tolist() == [[2, 0], [0, 2]]
        assert view.mask("conv.weight").nonzero == 2
        assert view.mask("fc.bias") is None
        assert (view.metadata["k"], view.format, view.path) == ("v", "safetensors", tmp_path / "x")
        with pytest.raises(MissingTensor):
            view.read("module.conv.weight")
        deeper = stripped(stripped(checkpoint, "mod"), "ule.")
        assert (deeper.prefix, list(deeper.tensors)) == ("module.", list(view.tensors))
        assert stripped(checkpoint, "") is checkpoint
        with pytest.raises(ValueError, match="does not begin with"):
            stripped(checkpoint, "model.")
