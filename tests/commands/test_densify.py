"""Every kind of masked checkpoint becomes the dense one by hand, to the bit, loads strictly, and trains."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import tinyhf
import torch
from onnx import TensorProto, helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sparse_states import FORMS, Net, State, bits, dense, masks, pruned_net, same_bits, whole
from torch.nn.utils import prune
from typer.testing import Result

from sift_cli import api
from sift_cli.checkpoint import artifact, open_checkpoint
from sift_cli.checkpoint.folder import MASKS
from sift_cli.compat import import_transformers
from sift_cli.core.masks import Mask
from sift_cli.errors import CheckpointError, ExportError, ModelError, OutputExists, VerificationFailed

Sift = Callable[..., Result]


def read(path: Path) -> State:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def put(state: State, path: Path) -> Path:
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


@pytest.mark.parametrize("to", ["safetensors", "pt"])
@pytest.mark.parametrize("of", ["safetensors", "pt"])
@pytest.mark.parametrize("form", FORMS)
def test_the_weights_are_the_dense_ones(form: str, of: str, to: str, tmp_path: Path) -> None:
    state, kept = whole()
    if form == "torch_prune":  # its product has the signs; test_torch_s_own_removal has them to the bit
        state = {name: tensor.abs() for name, tensor in state.items()}
    source = put(FORMS[form](state, kept), tmp_path / f"sparse.{of}")
    done = api.densify(source, tmp_path / f"dense.{to}")
    assert done.certificate.held
    assert {claim.name: (claim.before, claim.after) for claim in done.certificate.claims} == {
        "roundtrip": (len(state), len(state)),
        "revived": (sum(int((~mask).sum()) for mask in kept.values()),) * 2,
    }
    got, wanted = read(done.path), dense(state, kept)
    assert got.keys() == wanted.keys()
    assert all(same_bits(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("to", ["safetensors", "pt"])
def test_torch_s_own_removal(to: str, tmp_path: Path) -> None:
    """A model that torch pruned, against ``prune.remove``; its outputs, its loading, and a dense step of training."""
    model = pruned_net().eval()
    source = put(model.state_dict(), tmp_path / "pruned.pt")
    removed = pruned_net().eval()
    for module, name in ((removed.conv, "weight"), (removed.fc, "weight"), (removed.fc, "bias")):
        prune.remove(module, name)
    got = read(api.densify(source, tmp_path / f"dense.{to}").path)
    assert got.keys() == removed.state_dict().keys()
    assert all(same_bits(got[name], tensor) for name, tensor in removed.state_dict().items())

    fresh = Net().eval()
    fresh.load_state_dict(got, strict=True)
    x = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert bits(fresh(x)) == bits(model(x))
    before = copy.deepcopy(fresh.state_dict())
    optimizer = torch.optim.SGD(fresh.train().parameters(), lr=0.1)
    fresh(x).square().sum().backward()
    optimizer.step()
    for mask, name in ((model.conv.weight_mask, "conv.weight"), (model.fc.weight_mask, "fc.weight")):
        moved = fresh.state_dict()[name] != before[name]
        assert moved[mask == 0].all()
        assert mask.eq(0).any()


def test_metadata_tell_what_it_was(tmp_path: Path) -> None:
    state, kept = whole()
    save_file(FORMS["nan"](state, kept), tmp_path / "x.safetensors", metadata={"epoch": "7", "format": "pt"})
    api.densify(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    with safe_open(tmp_path / "y.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["epoch"] == "7"
    assert json.loads(metadata["sift.provenance"]) == {
        "densified": {
            "source": "x.safetensors",
            "sha256": hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest(),
            "was_sparse": {name: 1 - int(mask.sum()) / mask.numel() for name, mask in kept.items()},
            "sidebands": ["nan"],
            "revive": "zero",
        }
    }
    assert {claim["verdict"] for claim in api.inspect(tmp_path / "y.safetensors").certificate["claims"]} == {"held"}
    with pytest.raises(ModelError, match="is dense"):
        api.densify(tmp_path / "y.safetensors", tmp_path / "z.safetensors")


@pytest.mark.parametrize("to", ["safetensors", "pt"])
def test_revived_by_chance(to: str, tmp_path: Path) -> None:
    state, kept = whole()
    source = put(FORMS["mask_buffers"](state, kept), tmp_path / "x.pt")

    def drawn(output: str, seed: int) -> State:
        done = api.densify(source, tmp_path / f"{output}.{to}", revive="normal(0.01)", seed=seed)
        return read(done.path)

    first, again, other = drawn("a", 3), drawn("b", 3), drawn("c", 4)
    for name, tensor in first.items():
        assert same_bits(tensor, again[name])
        if name not in kept:
            assert same_bits(tensor, state[name])
            continue
        assert same_bits(tensor[kept[name]], state[name][kept[name]])
        assert (tensor[~kept[name]] != 0).all()
        assert (tensor[~kept[name]] != other[name][~kept[name]]).all()
        assert tensor[~kept[name]].abs().max() < 0.06


def test_a_revived_artifact(tmp_path: Path) -> None:
    source, arch = tmp_path / "w.safetensors", "nets:tiny_resnet"
    api.transform(arch, source, sparsity="3/4", input_shape=(1, 3, 8, 8))
    sparse = api.load(source, arch=arch)
    done = api.densify(source, tmp_path / "d.safetensors", revive="normal", seed=2)
    assert [claim.name for claim in done.certificate.claims] == ["roundtrip", "revived"]
    got = read(done.path)
    from sift_cli.surgery import masks_of

    for name, mask in masks_of(sparse).items():
        assert same_bits(got[name][mask], sparse.get_parameter(name)[mask])
        assert (got[name][~mask] != 0).all()
    with safe_open(done.path, "pt") as file:
        about = json.loads(file.metadata()["sift.provenance"])["densified"]
    assert about["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (about["revive"], about["seed"]) == ("normal(0.02)", 2)
    assert about["was_sparse"] == {name: 1 - int(m.sum()) / m.numel() for name, m in masks_of(sparse).items()}
    with pytest.raises(ModelError, match="no state of an optimizer"):
        api.densify(source, tmp_path / "d.pt", arch=arch, optimizer="carry")


def test_an_artifact_stays_one(tmp_path: Path) -> None:
    """Of the same plan, without masks: loaded again it is the same function, every bit of it."""
    source, arch = tmp_path / "w.safetensors", "nets:tiny_resnet"
    api.transform(arch, source, sparsity="3/4", input_shape=(1, 3, 8, 8))
    done = api.densify(source, tmp_path / "d.safetensors")
    sparse, loaded = api.load(source, arch=arch), api.load(done.path, arch=arch)
    assert done.certificate.held
    assert done.plan is not None
    assert api.inspect(done.path).to_json()["plan"] == api.inspect(source).to_json()["plan"]
    from sift_cli.surgery import masks_of

    assert masks_of(sparse)
    assert not masks_of(loaded)
    assert all(same_bits(loaded.state_dict()[name], tensor) for name, tensor in sparse.state_dict().items())
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert bits(loaded.eval()(x)) == bits(sparse.eval()(x))
    with pytest.raises(ModelError, match="is dense"):
        api.densify(done.path, tmp_path / "again.safetensors")


def test_an_artifact_whose_masks_are_not_its_plans(tmp_path: Path) -> None:
    source, arch = tmp_path / "w.safetensors", "nets:tiny_resnet"
    api.transform(arch, source, sparsity="3/4", input_shape=(1, 3, 8, 8))
    with open_checkpoint(source) as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
        stored = {name: mask for name in tensors if (mask := checkpoint.mask(name)) is not None}
        about = {key: text for key, text in checkpoint.metadata.items() if key in ("sift.plan", "sift.model")}
    name = next(iter(stored))
    fewer = stored[name].to_bool()
    fewer.flat[fewer.argmax()] = False
    tensors[name] *= fewer
    artifact.write(source, tensors, {**stored, name: Mask.from_bool(fewer)}, about)
    with pytest.raises(CheckpointError, match="its masks: they keep other weights than its plan says"):
        api.densify(source, tmp_path / "d.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def gpt2(path: Path, form: str, **saving: Any) -> tuple[Path, State, State]:
    """A folder with masks on its blocks' matrices, in shards where ``saving`` says so, and the dense weights."""
    tinyhf.folder(path, "gpt2", **saving)
    (path / "tokenizer.json").write_text('{"a": "tokenizer"}')
    files = sorted(path.glob("*.safetensors"))
    state = {name: tensor.abs() for file in files for name, tensor in load_file(file).items()}
    kept = masks(state, tuple(name for name in state if ".h." in name and state[name].ndim == 2))
    weight_map = {}
    for file in files:
        mine = {name: state[name] for name in load_file(file)}
        sparse = FORMS[form](mine, {name: kept[name] for name in mine if name in kept})
        save_file(sparse, file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(sparse, file.name)
    if len(files) > 1:
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path, state, kept


@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "30KB"}], ids=["one-file", "shards"])
@pytest.mark.parametrize("form", FORMS)
def test_a_folder_of_transformers(form: str, saving: dict[str, str], tmp_path: Path) -> None:
    source, state, kept = gpt2(tmp_path / "sparse", form, **saving)
    done = api.densify(source, tmp_path / "dense")
    assert done.certificate.held
    wanted = dense(state, kept)
    model, about = import_transformers().GPT2LMHeadModel.from_pretrained(done.path, output_loading_info=True)
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    got = model.state_dict()
    assert all(same_bits(got[name], tensor) for name, tensor in wanted.items())

    names = {file.name for file in done.path.iterdir()}
    files = sorted(name for name in names if name.startswith("model") and name.endswith(".safetensors"))
    assert names >= {"config.json", "generation_config.json", "tokenizer.json", MASKS}
    if saving:
        # Every file as the source has them, without its masks.
        assert files == sorted(file.name for file in source.glob("model*.safetensors"))
        index = json.loads((done.path / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == wanted.keys()
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in wanted.values())
        for name in files:
            with safe_open(done.path / name, "pt") as file:
                assert set(file.keys()) == {key for key, home in index["weight_map"].items() if home == name}
    else:
        assert files == ["model.safetensors"]
        assert "model.safetensors.index.json" not in names
    with safe_open(done.path / MASKS, "pt") as file:
        assert not file.keys()
        was = json.loads(file.metadata()["sift.provenance"])["densified"]["was_sparse"]
    assert was == {name: pytest.approx(1 - int(mask.sum()) / mask.numel(), abs=0) for name, mask in kept.items()}

    # The folder is one of sift's: it can be replaced, and transformed like any dense model.
    with pytest.raises(OutputExists):
        api.densify(source, done.path)
    api.densify(source, done.path, force=True)
    assert not api.inspect(done.path).masked
    assert api.plan(done.path, sparsity="1/2").layers

    ids = torch.arange(12).reshape(2, 6)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    name = next(name for name in kept if name.endswith("c_fc.weight"))
    after = model.state_dict()[name]
    assert (after != wanted[name])[~kept[name]].all()


def test_a_folder_of_pickles_becomes_safetensors(tmp_path: Path) -> None:
    source, state, kept = gpt2(tmp_path / "sparse", "nan")
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    done = api.densify(source, tmp_path / "dense")
    got = load_file(done.path / "model.safetensors")
    assert all(same_bits(got[name], tensor) for name, tensor in dense(state, kept).items())
    assert not (done.path / "pytorch_model.bin").exists()
    single = read(api.densify(source, tmp_path / "one.safetensors").path)
    assert single.keys() == got.keys()


def test_a_mask_in_another_shard(tmp_path: Path) -> None:
    """The file that had nothing but masks is not written."""
    source = tmp_path / "sparse"
    source.mkdir()
    state, kept = whole()
    sparse = FORMS["mask_buffers"](state, kept)
    homes = {name: "b.safetensors" if name.endswith("_mask") else "a.safetensors" for name in sparse}
    for file in ("a.safetensors", "b.safetensors"):
        save_file({name: sparse[name] for name, home in homes.items() if home == file}, source / file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))
    done = api.densify(source, tmp_path / "dense")
    assert {file.name for file in done.path.iterdir()} == {"model.safetensors", MASKS}
    got = load_file(done.path / "model.safetensors")
    assert all(same_bits(got[name], tensor) for name, tensor in dense(state, kept).items())


def test_a_file_that_reads_back_otherwise_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sift_cli.export import streaming

    state, kept = whole()
    source = put(FORMS["nan"](state, kept), tmp_path / "x.safetensors")
    write = streaming.write_file

    def spoiled(path: Path, *arguments: Any) -> None:
        write(path, *arguments)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1  # one bit of the last tensor
        path.write_bytes(data)

    monkeypatch.setattr(streaming, "write_file", spoiled)
    with pytest.raises(VerificationFailed, match="roundtrip does not hold"):
        api.densify(source, tmp_path / "y.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("output", ["y.safetensors", "y.pt", "y"])
def test_nothing_is_written_of_a_bad_source(output: str, tmp_path: Path) -> None:
    source, _, _ = gpt2(tmp_path / "sparse", "mask_buffers")
    weights = load_file(source / "model.safetensors")
    name = next(name for name in weights if name.endswith("_mask"))
    save_file({**weights, name: weights[name].int() * 3}, source / "model.safetensors")
    with pytest.raises(CheckpointError, match="values other than 0 and 1"):
        api.densify(source, tmp_path / output)
    assert [file.name for file in tmp_path.iterdir()] == ["sparse"]


def test_refusals(tmp_path: Path) -> None:
    state, kept = whole()
    source = put(FORMS["nan"](state, kept), tmp_path / "x.pt")
    with pytest.raises(ExportError, match="no place for the state of an optimizer"):
        api.densify(source, tmp_path / "y.safetensors", optimizer="carry")
    with pytest.raises(ModelError, match="no state of an optimizer to carry"):
        api.densify(source, tmp_path / "y.pt", optimizer="carry")
    with pytest.raises(ExportError, match=r"neither \.safetensors nor \.pt"):
        api.densify(source, tmp_path / "y")
    (tmp_path / "cerebras.mdl").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    with pytest.raises(CheckpointError, match="HDF5") as refused:
        api.densify(tmp_path / "cerebras.mdl", tmp_path / "y.pt")
    assert "torch.save(cstorch.load(path)" in (refused.value.hint or "")
    graph = helper.make_graph([], "g", [], [], [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])])
    onnx.save(helper.make_model(graph), tmp_path / "x.onnx")
    with pytest.raises(ModelError, match="an ONNX graph, which has no parameters to train") as refused:
        api.densify(tmp_path / "x.onnx", tmp_path / "y.pt")
    assert refused.value.hint == "give the checkpoint that it was exported from"
    assert {file.name for file in tmp_path.iterdir()} == {"x.pt", "cerebras.mdl", "x.onnx"}


def test_the_command_line(sift: Sift) -> None:
    state, kept = whole()
    put(FORMS["nan"](state, kept), Path("x.pt"))
    done = sift("densify", "x.pt", "-o", "y.safetensors", "--revive", "normal(0.01)", "--seed", 5, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    claims = document["certificate"]["claims"]
    assert {claim["name"]: claim["verdict"] for claim in claims} == {"roundtrip": "held", "revived": "held"}
    assert sift("densify", "x.pt", "-o", "y.safetensors").exit_code == OutputExists.exit_code
    for wrong in (("--revive", "uniform"), ("--optimizer", "keep")):
        assert sift("densify", "x.pt", "-o", "z.pt", *wrong).exit_code == 2
    assert sift("densify", "x.pt", "-o", "z.pt", "--optimizer", "carry").exit_code == ModelError.exit_code
    assert "roundtrip" in sift("densify", "x.pt", "-o", "x.pt", "--force").stdout
    assert all(same_bits(read(Path("x.pt"))[name], tensor) for name, tensor in dense(state, kept).items())


_PEAK = """
import sys
from pathlib import Path
from sift_cli import api

def resident(key):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1])

api.densify(sys.argv[1], sys.argv[2])  # what is imported on the way
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: that of the imports was higher
before = resident("VmRSS:")
api.densify(sys.argv[3], sys.argv[4])
print(resident("VmHWM:") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux' /proc")
@pytest.mark.parametrize("form", ["nan", "torch_prune", "artifact"])
def test_memory_is_that_of_the_largest_tensor(form: str, tmp_path: Path) -> None:
    """64 MB of weights, the largest tensor 4 MB."""

    def folder(path: Path, shards: int, rows: int) -> str:
        path.mkdir()
        weight_map = {}
        for shard in range(shards):
            name = f"layer{shard}.weight"
            state = {name: torch.ones(rows, 1024)}
            kept = masks(state, (name,))
            if form == "artifact":
                arrays = {name: (state[name] * kept[name]).numpy()}
                artifact.write(path / f"{shard}.safetensors", arrays, {name: Mask.from_bool(kept[name].numpy())}, {})
                weight_map[name] = f"{shard}.safetensors"
                continue
            sparse = FORMS[form](state, kept)
            save_file(sparse, path / f"{shard}.safetensors")
            weight_map |= dict.fromkeys(sparse, f"{shard}.safetensors")
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return str(path)

    arguments = [folder(tmp_path / "tiny", 2, 1), tmp_path / "a", folder(tmp_path / "large", 16, 1024), tmp_path / "b"]
    done = subprocess.run([sys.executable, "-c", _PEAK, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # A weight, its float mask, and bools of both; or two weights to compare. Measured: 2 to 2.5 of the largest tensor.
    assert int(done.stdout) * 1024 < 4 * 2**22
    assert sum(file.stat().st_size for file in (tmp_path / "b").iterdir()) > 2**26
