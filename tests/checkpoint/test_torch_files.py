"""PyTorch's files: what sift reads without torch is what torch.load reads, whatever the tensors' layout."""

import argparse
import collections
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.torch_arrays import from_numpy, to_numpy
from sift_cli.core.tensors import DTYPES
from sift_cli.errors import CheckpointError, UnsafePickle

BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def bits(tensor: torch.Tensor) -> bytes:
    """The elements in row-major order, by way of torch alone."""
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


def save(obj, path, zipped):
    torch.save(obj, path, _use_new_zipfile_serialization=zipped)
    return path


def layouts() -> dict[str, torch.Tensor]:
    base = torch.arange(60, dtype=torch.float32)
    grid = base.reshape(3, 4, 5)
    tied = torch.ones(2, 3)
    return {
        "whole": base,
        "view": base[10:20],
        "inner view": base[12:14],
        "overlapping view": base[18:30],
        "end": base[59:],
        "transposed": grid[0].T,
        "permuted": grid.permute(1, 2, 0),
        "every other": base[::2],
        "middle": grid[:, 1:3, ::2],
        "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "expanded": torch.tensor([1.0, 2.0]).reshape(2, 1).expand(2, 7),
        "broadcast scalar": torch.tensor(3.0).expand(2, 2),
        "tied": tied,
        "tied again": tied,
        "scalar": torch.tensor(5.0),
        "empty": torch.empty(0),
        "empty with sizes": torch.empty(3, 0, 2),
        "parameter": nn.Parameter(torch.full((2,), 2.5)),
        "no grad": nn.Parameter(torch.ones(1), requires_grad=False),
        "special": torch.tensor([-0.0, float("nan"), float("inf"), 1e-45]),
    }


@BOTH
def test_every_layout(zipped, tmp_path):
    expected = layouts()
    with open_checkpoint(save(expected, tmp_path / "x", zipped)) as checkpoint:
        assert list(checkpoint.tensors) == list(expected)
        for name, tensor in expected.items():
            found = checkpoint.read(name)
            assert found.shape == tuple(tensor.shape) == checkpoint.tensors[name].shape, name
            assert found.tobytes() == bits(tensor), name
            assert found.flags.c_contiguous, name
            assert found.flags.writeable, name


@BOTH
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype(zipped, name, tmp_path):
    array = np.array([0, 1, 1, 0, 1], np.float32).astype(DTYPES[name])
    tensor = from_numpy(array)
    with open_checkpoint(save({"w": tensor}, tmp_path / "x", zipped)) as checkpoint:
        assert checkpoint.tensors["w"].dtype == name
        assert checkpoint.read("w").dtype == array.dtype
        assert checkpoint.read("w").tobytes() == array.tobytes()


@pytest.mark.parametrize("name", DTYPES)
def test_torch_and_numpy_exchange_bits(name):
    raw = np.arange(64, dtype=np.uint8) % 2 if name == "BOOL" else np.arange(64, dtype=np.uint8) * 37
    array = raw.view(DTYPES[name]).reshape(2, -1)
    tensor = from_numpy(array)
    assert bits(tensor) == array.tobytes()
    assert to_numpy(tensor).tobytes() == array.tobytes()
    assert to_numpy(tensor.T).tobytes() == np.ascontiguousarray(array.T).tobytes()


def test_conversion_copies():
    tensor = torch.ones(3)
    to_numpy(tensor)[0] = 5
    array = np.ones(3, np.float32)
    from_numpy(array)[0] = 5
    assert tensor.tolist() == array.tolist() == [1, 1, 1]


def test_conversion_resolves_lazy_conjugates_and_signs():
    tensor = torch.tensor([1 + 2j])
    assert to_numpy(tensor.conj()).tolist() == [1 - 2j]
    assert to_numpy(tensor.conj().imag).tolist() == [-2]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(2).to_sparse(),
        torch.empty(2, device="meta"),
        pytest.param("quantized", id="quantized"),
    ],
    ids=["sparse", "meta", "quantized"],
)
def test_conversion_refuses_what_is_no_plain_array(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(tensor, str):
            tensor = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        with pytest.raises(ValueError, match="no plain dense tensor"):
            to_numpy(tensor)


@BOTH
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(zipped, protocol, tmp_path):
    state = {"model": {"w": torch.arange(3.0)}, "names": {"a", "b"}, "blob": b"\0" * 300, "none": None}
    torch.save(state, tmp_path / "x", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.read("w").tolist() == [0, 1, 2]


def test_a_file_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(3.0)}, tmp_path / "x")
    finally:
        torch.serialization.set_crc32_options(True)
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.read("w").tolist() == [0, 1, 2]


@BOTH
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a nested tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantized"),
    ],
    ids=["nested", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_array_is_refused_by_name(zipped, make, kind, tmp_path):
    with pytest.raises(CheckpointError, match=f"tensor 'odd' is {kind}"):
        open_checkpoint(save({"w": torch.ones(1), "odd": make()}, tmp_path / "x", zipped))


SD = collections.OrderedDict(w=torch.tensor([1.0]), b=torch.tensor([2.0]))
EMA = {"w": torch.tensor([10.0]), "b": torch.tensor([20.0])}
WRAPPED = {
    "bare": (SD, None, ()),
    "state_dict": ({"state_dict": SD, "epoch": 3}, "state_dict", ("epoch",)),
    "timm": (
        {"arch": "r", "args": argparse.Namespace(lr=0.1), "state_dict": SD, "state_dict_ema": EMA},
        "state_dict",
        None,
    ),
    "torchvision references": (
        {"model": SD, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": []}, "model_ema": EMA},
        "model",
        ("optimizer", "model_ema"),
    ),
    "an accuracy that is a tensor": ({"best_acc1": torch.tensor(0.7), "state_dict": SD}, "state_dict", ("best_acc1",)),
    "ema alone": ({"ema": SD, "step": 1}, "ema", ("step",)),
    "two levels": ({"model": {"state_dict": SD, "name": "x"}, "step": 1}, "model.state_dict", ("step", "model.name")),
    "any one name": ({"generator": SD, "step": 1}, "generator", ("step",)),
    "entries that are no tensors": (
        {"w": SD["w"], "b": SD["b"], "_extra_state": None, "k": 3},
        None,
        ("_extra_state", "k"),
    ),
    "numpy scalars": ({"state_dict": SD, "acc": np.float64(0.5), "n": np.int64(3)}, "state_dict", ("acc", "n")),
}


@BOTH
@pytest.mark.parametrize("case", WRAPPED)
def test_the_state_dict_is_found(zipped, case, tmp_path):
    content, wrapper, ignored = WRAPPED[case]
    with open_checkpoint(save(content, tmp_path / "x", zipped)) as checkpoint:
        assert {name: checkpoint.read(name).tolist() for name in checkpoint.tensors} == {"w": [1.0], "b": [2.0]}
        assert checkpoint.wrapper == wrapper
        assert ignored is None or checkpoint.ignored == ignored
        assert checkpoint.module is None


@BOTH
@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({}, "it is empty"),
        ({"epoch": 3}, r"no tensors by name \(its keys: 'epoch'\)"),
        ({0: torch.ones(1)}, "no tensors by name"),
        (torch.ones(2), "a tensor without a name"),
        ([torch.ones(2)], "no mapping of names to tensors"),
        ({"gen": {"w": torch.ones(1)}, "disc": {"w": torch.ones(1)}}, "under 'gen', 'disc'"),
    ],
)
def test_files_without_a_state_dict(zipped, content, why, tmp_path):
    with pytest.raises(CheckpointError, match=why):
        open_checkpoint(save(content, tmp_path / "x", zipped))


@BOTH
def test_an_allowed_pickle_gives_the_live_module(zipped, tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save(module, tmp_path / "x", zipped)
    with pytest.raises(UnsafePickle):
        open_checkpoint(path)
    with open_checkpoint(path, allow_pickle=True) as checkpoint:
        assert isinstance(checkpoint.module, nn.Sequential)
        assert list(checkpoint.tensors) == list(module.state_dict())
        for name, tensor in module.state_dict().items():
            assert checkpoint.read(name).tobytes() == bits(tensor)


def test_an_allowed_pickle_with_a_wrapped_module(tmp_path):
    path = save({"model": nn.Linear(2, 3), "epoch": 1}, tmp_path / "x", True)
    with open_checkpoint(path, allow_pickle=True) as checkpoint:
        assert isinstance(checkpoint.module, nn.Linear)
        assert (checkpoint.wrapper, checkpoint.ignored) == ("model", ("epoch",))


def test_allowing_pickles_changes_nothing_for_plain_data(tmp_path):
    with open_checkpoint(save(SD, tmp_path / "x", True), allow_pickle=True) as checkpoint:
        assert checkpoint.module is None
        assert checkpoint.read("w").tolist() == [1.0]


class Vanishing(nn.Module):
    pass


@BOTH
def test_an_allowed_pickle_whose_class_is_gone(zipped, tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save({"model": Vanishing()}, tmp_path / "x", zipped)
    monkeypatch.delitem(globals(), "Vanishing")
    with pytest.raises(CheckpointError, match=r"cannot be unpickled: .*Vanishing") as raised:
        open_checkpoint(path, allow_pickle=True)
    assert "imported" in raised.value.hint


class Odd(nn.Module):
    """A nested module with a plain tensor attribute, a shared child, and buffers that are saved and not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.plain = torch.ones(2)
        self.register_buffer("kept", torch.arange(3))
        self.blocks = nn.ModuleList([nn.Linear(2, 2), self.first])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.first(x) * self.scale + self.plain + self.kept.sum()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "compile", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1, 2))], ids=["script", "trace"]
)
def test_torchscript_has_the_state_dict_of_torch_jit_load(compile, tmp_path):
    path = str(tmp_path / "x")
    compile(Odd().eval()).save(path)
    expected = torch.jit.load(path).state_dict()
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == list(expected)
        for name, tensor in expected.items():
            assert checkpoint.read(name).tobytes() == bits(tensor), name
    assert "plain" not in checkpoint.tensors


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_has_the_state_dict_of_torch_export_load(tmp_path):
    model = Odd().eval()
    model.transposed = nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
    base = torch.arange(12.0)
    model.slice, model.overlapping = nn.Parameter(base[2:5]), nn.Parameter(base[4:10])
    model.narrow = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    with open(tmp_path / "x", "wb") as file:
        torch.export.save(torch.export.export(model, (torch.ones(1, 2),)), file)
    with open(tmp_path / "x", "rb") as file:
        expected = torch.export.load(file).state_dict
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert set(checkpoint.tensors) == set(expected) == set(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert checkpoint.read(name).tobytes() == bits(tensor), name
        assert checkpoint.ignored == ("plain",)
