"""A folder of transformers goes in, a folder that plain ``from_pretrained`` loads comes out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinyhf
import torch
from safetensors.numpy import load_file, save_file
from typer.testing import Result

import sift_cli
from sift_cli import api
from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.folder import MASKS
from sift_cli.compat import import_transformers
from sift_cli.errors import CheckpointError, ExportError, ModelError, OutputExists
from sift_cli.runtime import random_inputs

Sift = Callable[..., Result]
KINDS = ("gpt2", "llama")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models at 75 %, twice as wide, with a tokenizer's file and a generation configuration of their own."""
    root, outputs = tmp_path_factory.mktemp("wide"), {}
    for kind in KINDS:
        source = tinyhf.folder(root / kind, kind)
        (source / "tokenizer.json").write_text('{"a": "tokenizer"}')
        speaking = json.loads((source / "generation_config.json").read_text())
        (source / "generation_config.json").write_text(json.dumps({**speaking, "max_new_tokens": 7}))
        outputs[kind] = root / f"{kind}-wide"
        api.transform(source, outputs[kind], sparsity="3/4")
    return outputs


@pytest.fixture
def gpt2(wide: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(wide["gpt2"], tmp_path / "gpt2-wide"))


def plain(folder: Path, kind: str) -> Any:
    name, _ = tinyhf.CONFIGS[kind]
    model, about = getattr(import_transformers(), name).from_pretrained(folder, output_loading_info=True)
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_plain_from_pretrained_computes_the_same_and_speaks(wide: dict[str, Path], kind: str) -> None:
    ours, theirs = sift_cli.load(wide[kind]), plain(wide[kind], kind)
    ids = torch.randint(3, 101, (2, 13), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
    spoken = theirs.generate(ids, do_sample=False, max_new_tokens=6, eos_token_id=None)
    again = theirs.generate(ids, do_sample=False, max_new_tokens=6, eos_token_id=None, use_cache=False)
    assert spoken.shape == (2, 19)
    assert torch.equal(spoken, again)  # what the cache of keys and values remembers is what is computed without it
    state, config = theirs.state_dict(), theirs.config
    for name, mask in sift_cli.masks(ours).items():
        assert not state[name][~mask].any()
    assert config.hidden_size == 64
    assert config.num_attention_heads == 4
    assert config.use_cache
    assert config.architectures == [tinyhf.CONFIGS[kind][0]]


def test_what_belongs_to_the_model_comes_along(wide: dict[str, Path]) -> None:
    names = {path.name for path in wide["llama"].iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", MASKS}
    assert json.loads((wide["llama"] / "generation_config.json").read_text())["max_new_tokens"] == 7
    assert (wide["llama"] / "tokenizer.json").read_text() == '{"a": "tokenizer"}'
    config = json.loads((wide["llama"] / "config.json").read_text())
    assert (config["hidden_size"], config["head_dim"], config["num_key_value_heads"]) == (64, 16, 2)


def test_the_masks_keep_the_macs_that_the_layers_had(wide: dict[str, Path]) -> None:
    found = api.inspect(wide["gpt2"])
    kept = {tensor.spec.name: tensor.nonzero for tensor in found.masked}
    for layer in range(2):
        block = f"transformer.h.{layer}"
        assert kept[f"{block}.attn.c_attn.weight"] == 32 * 96
        assert kept[f"{block}.mlp.c_fc.weight"] == kept[f"{block}.mlp.c_proj.weight"] == 32 * 128
    assert found.architecture == "transformers:GPT2LMHeadModel"
    assert {claim["verdict"] for claim in found.certificate["claims"]} == {"held"}
    report = api.flops(wide["gpt2"])
    assert report.sparse == 32 * (2 * 12 * 32 * 32 + 64 * 101) + 2 * 2 * 32 * 32 * 64


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_is_the_same_model(wide: dict[str, Path], kind: str, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    assert api.export(wide[kind], file).certificate.held
    folder, one = sift_cli.load(wide[kind]), sift_cli.load(file)
    assert all(torch.equal(tensor, one.state_dict()[name]) for name, tensor in folder.state_dict().items())
    tied = {name for name, tensor in one.named_parameters(remove_duplicate=False) if tensor is one.lm_head.weight}  # type: ignore[union-attr]
    assert tied == ({"lm_head.weight", "transformer.wte.weight"} if kind == "gpt2" else {"lm_head.weight"})
    back = tmp_path / "back"
    assert api.export(file, back, format="folder").certificate.held
    assert load_file(back / "model.safetensors").keys() == load_file(wide[kind] / "model.safetensors").keys()
    plain(back, kind)


def test_dense_again(wide: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "dense"
    assert api.densify(wide["gpt2"], output).certificate.held
    dense = sift_cli.load(output)
    assert not sift_cli.masks(dense)
    assert api.flops(output).sparse == api.flops(wide["gpt2"]).sparse  # the zeros stay until somebody trains
    before, after = (load_file(folder / "model.safetensors") for folder in (wide["gpt2"], output))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_as_onnx_of_any_length(wide: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "llama.onnx"
    assert api.export(wide["llama"], output).certificate.held
    ours, session = sift_cli.load(wide["llama"]), sift_cli.session(output)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("input_ids", ["batch", "length"])]
    ids = torch.randint(0, 101, (3, 9), generator=torch.Generator().manual_seed(1))
    (got,) = session.run(None, {"input_ids": ids.numpy()})
    with torch.no_grad():
        wanted = ours(input_ids=ids).logits
    torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-4, atol=1e-5)
    assert api.flops(output, dims={"length": 32}).sparse == api.flops(wide["llama"]).sparse
    tokens = random_inputs(session, batch=2)["input_ids"]
    assert tokens.shape == (2, 32)
    assert 90 < tokens.max() < 101
    assert api.run(output, batch=2).outputs["output"].shape == (2, 32, 101)


def test_nothing_is_the_same_model(tmp_path: Path) -> None:
    source = tinyhf.folder(tmp_path / "bert", "bert")
    assert api.transform(source, tmp_path / "same", sparsity=0).certificate.held
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "same"))
    assert all(np.array_equal(before[name], after[name]) for name in before)
    # Positions and token types are cut out of tables at the length of the input.
    assert api.export(tmp_path / "same", tmp_path / "bert.onnx").certificate.held
    assert api.flops(tmp_path / "bert.onnx", dims={"length": 32}).dense == tinyhf.MACS["bert"]


def test_weights_that_a_mask_does_not_keep_are_refused(gpt2: Path) -> None:
    weights = load_file(gpt2 / "model.safetensors")
    save_file({name: array + np.float32(1e-3) for name, array in weights.items()}, gpt2 / "model.safetensors")
    with pytest.raises(CheckpointError, match="weights that it does not keep have values"):
        sift_cli.load(gpt2)
    (gpt2 / MASKS).unlink()
    report = api.flops(gpt2)
    assert report.dense == report.sparse  # trained on without sift, it is a dense model like any other


def test_a_folder_that_contradicts_its_plan_is_refused(gpt2: Path) -> None:
    config = json.loads((gpt2 / "config.json").read_text())
    (gpt2 / "config.json").write_text(json.dumps({**config, "n_inner": 77}))
    with pytest.raises(CheckpointError, match="are not those of its plan"):
        sift_cli.load(gpt2)


def test_a_transformed_folder_is_no_start(gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a model that sift transformed"):
        api.transform(gpt2, tmp_path / "again", sparsity="1/2")


def test_a_model_that_no_configuration_describes_is_a_file(tmp_path: Path) -> None:
    source = tinyhf.folder(tmp_path / "gpt2", "gpt2")
    with pytest.raises(ExportError, match="no configuration of GPT2LMHeadModel describes its layers"):
        api.transform(source, tmp_path / "out", kind="parallel", sparsity="1/2")
    assert not (tmp_path / "out").exists()
    assert api.transform(source, tmp_path / "out.safetensors", kind="parallel", sparsity="1/2").certificate.held


def test_the_command_line(sift: Sift) -> None:
    tinyhf.folder(Path("tiny"), "gpt2")
    done = sift("transform", "tiny/", "--sparsity", "0.75", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["output"] == "tiny-wide-0.75"
    assert Path("tiny-wide-0.75").is_dir()
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]
    again = sift("transform", "tiny", "--sparsity", "0.75")
    assert again.exit_code == OutputExists.exit_code
    shown = sift("inspect", "tiny-wide-0.75")
    assert "transformers:GPT2LMHeadModel" in shown.stdout
    assert sift("flops", "tiny-wide-0.75", "--json").exit_code == 0
    assert sift("flops", "transformers:gpt2/no", "--json").exit_code == ModelError.exit_code
    np.savez("ids.npz", input_ids=np.arange(5)[None])
    counted = sift("flops", "tiny", "--input-npz", "ids.npz", "--json")
    assert json.loads(counted.stdout)["macs"]["dense"] == 5 * (2 * 12 * 32 * 32 + 32 * 101) + 2 * 2 * 5 * 5 * 32
    short = sift("flops", "tiny", "--input", "1x5", "--json")
    assert json.loads(short.stdout)["macs"] == json.loads(counted.stdout)["macs"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"\x93NUMPY"])
def test_inputs_that_are_no_arrays(sift: Sift, content: bytes) -> None:
    Path("ids.npz").write_bytes(content)
    done = sift("flops", "builtin:cifar_resnet18", "--input-npz", "ids.npz")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 2


def test_conv1d_is_exported_with_the_masks_its_weights_have(wide: dict[str, Path], tmp_path: Path) -> None:
    """transformers' Conv1D has its inputs first, the operator its outputs; one of the weights is square."""
    output = tmp_path / "gpt2.onnx"
    certificate = api.export(wide["gpt2"], output).certificate
    assert certificate.held
    masks = sift_cli.masks(sift_cli.load(wide["gpt2"]))
    shapes = set()
    with open_checkpoint(output) as file:
        for name, mask in masks.items():
            stored = file.mask(name)
            assert stored is not None
            assert np.array_equal(stored.to_bool(), mask.T.numpy())
            shapes.add(mask.shape[0] == mask.shape[1])
    assert shapes == {True, False}
