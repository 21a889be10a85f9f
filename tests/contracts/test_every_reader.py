"""Every checkpoint reader: the same model in every kind of file, found by content, and damaged in every way."""

import contextlib
import random
import struct
import subprocess
import sys
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
import torch01
from onnx import numpy_helper
from torch import nn

from sift_cli.checkpoint import open_checkpoint
from sift_cli.errors import CheckpointError, MissingTensor
from sift_cli.registry import discover, names

READERS = "sift_cli.checkpoint.readers"
every_reader = pytest.mark.parametrize("name", names(READERS))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


def save_safetensors(model, path):
    safetensors.torch.save_file(model.state_dict(), path)


def save_torch_zip(model, path):
    torch.save(model.state_dict(), path)


def save_torch_legacy(model, path):
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)


def save_torch_tar(model, path):
    path.write_bytes(torch01.save(OrderedDict(model.state_dict())))


def save_torchscript(model, path):
    torch.jit.script(model).save(str(path))


def save_exported_program(model, path):
    with open(path, "wb") as file:
        torch.export.save(torch.export.export(model, (torch.ones(1, 2, 5, 5),)), file)


def save_npz(model, path):
    with open(path, "wb") as file:
        np.savez(file, **{name: value.numpy() for name, value in model.state_dict().items()})


def save_onnx(model, path):
    initializers = [numpy_helper.from_array(value.numpy(), name) for name, value in model.state_dict().items()]
    graph = onnx.helper.make_graph([], "g", [], [], initializers)
    onnx.save(onnx.helper.make_model(graph, producer_name="test"), path, format="protobuf")


SAVE = {
    "exported_program": save_exported_program,
    "npz": save_npz,
    "onnx": save_onnx,
    "safetensors": save_safetensors,
    "torch_legacy": save_torch_legacy,
    "torch_tar": save_torch_tar,
    "torch_zip": save_torch_zip,
    "torchscript": save_torchscript,
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The same model in a file of each kind, all under a suffix that says nothing, and its tensors."""
    torch.manual_seed(0)
    model = Net().eval()
    folder = tmp_path_factory.mktemp("samples")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, save in SAVE.items():
            save(model, folder / f"{name}.bin")
    return folder, {name: value.numpy() for name, value in model.state_dict().items()}


def exhaust(path: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.tensors:
            checkpoint.mask(name)
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


def test_every_reader_has_a_sample():
    assert sorted(SAVE) == sorted(names(READERS))


@every_reader
def test_round_trip(name, samples):
    folder, expected = samples
    with open_checkpoint(folder / f"{name}.bin") as checkpoint:
        assert checkpoint.format == name
        assert set(checkpoint.tensors) == set(expected)
        for key, array in expected.items():
            spec = checkpoint.tensors[key]
            found = checkpoint.read(key)
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes()), key
            assert (spec.name, spec.shape, spec.stored_bytes) == (key, array.shape, array.nbytes)
            assert checkpoint.mask(key) is None
            found[...] = 0  # what was read is the caller's
        assert checkpoint.read("fc.weight").tobytes() == expected["fc.weight"].tobytes()


@every_reader
def test_threads_may_read_at_the_same_time(name, samples):
    folder, expected = samples
    with open_checkpoint(folder / f"{name}.bin") as checkpoint, ThreadPoolExecutor(4) as pool:
        asked = sorted(expected) * 40
        for key, found in zip(asked, pool.map(checkpoint.read, asked), strict=True):
            assert found.tobytes() == expected[key].tobytes(), key


@every_reader
def test_a_missing_tensor_is_named_with_the_nearest(name, samples):
    with open_checkpoint(samples[0] / f"{name}.bin") as checkpoint:
        for ask in (checkpoint.read, checkpoint.mask):
            with pytest.raises(MissingTensor) as raised:
                ask("fc.wieght")
            assert raised.value.fields["nearest"] == "fc.weight"


@every_reader
def test_exactly_one_reader_recognises_each_file(name, samples):
    for sample in SAVE:
        path = samples[0] / f"{sample}.bin"
        assert discover(READERS)[name].sniff(path.read_bytes()[:4096], path) is (sample == name)


@every_reader
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx", ".json", ""])
def test_the_suffix_says_nothing(name, suffix, samples, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes((samples[0] / f"{name}.bin").read_bytes())
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == name


@every_reader
def test_no_torch_is_needed(name, samples):
    """Reading runs in a process where torch cannot be imported, and so where none of its code can run either."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from sift_cli.checkpoint import open_checkpoint\n"
        f"c = open_checkpoint({str(samples[0] / f'{name}.bin')!r})\n"
        "print(sum(c.read(n).size for n in c.tensors))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == str(sum(array.size for array in samples[1].values())), result.stderr


@every_reader
def test_a_file_cut_anywhere_is_refused(name, samples, tmp_path):
    data = (samples[0] / f"{name}.bin").read_bytes()
    path = tmp_path / "cut"
    cuts = {*range(min(80, len(data))), *range(0, len(data), 61), *range(len(data) - 80, len(data))}
    for cut in sorted(cuts):
        path.write_bytes(data[:cut])
        with pytest.raises(CheckpointError) as raised:
            exhaust(path)
        assert str(path) in str(raised.value)


@every_reader
def test_flipped_bits_end_in_a_checkpoint_error_or_not_at_all(name, samples, tmp_path):
    data = (samples[0] / f"{name}.bin").read_bytes()
    path = tmp_path / "flipped"
    rng = random.Random(name)
    refused = 0
    for _ in range(250):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            exhaust(path)
        except CheckpointError:
            refused += 1
    assert refused


@every_reader
def test_huge_numbers_anywhere_end_in_a_checkpoint_error_or_not_at_all(name, samples, tmp_path):
    data = (samples[0] / f"{name}.bin").read_bytes()
    path = tmp_path / "huge"
    rng = random.Random(name)
    for number in (2**63 - 1, 2**64 - 1, 2**40, 2**31, 0):
        for width in ("<Q", "<I"):
            for _ in range(20):
                at = rng.randrange(len(data) - 8)
                patch = struct.pack(width, number & (2 ** (8 * struct.calcsize(width)) - 1))
                path.write_bytes(data[:at] + patch + data[at + len(patch) :])
                with contextlib.suppress(CheckpointError):
                    exhaust(path)


@every_reader
def test_bytes_after_the_end_change_nothing_silently(name, samples, tmp_path):
    folder, expected = samples
    path = tmp_path / "longer"
    path.write_bytes((folder / f"{name}.bin").read_bytes() + b"\0" * 100)
    try:
        found = exhaust(path)
    except CheckpointError:
        return
    assert {key: value.tobytes() for key, value in found.items()} == {k: v.tobytes() for k, v in expected.items()}
