"""The oracle is the library itself: what its own ``from_pretrained`` makes of a folder computes the same bits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinyhf
import torch
from safetensors.numpy import load_file, save_file

from sift_cli.compat import import_transformers
from sift_cli.core.plan import Architecture, InputSpec
from sift_cli.errors import CheckpointError, MissingExtra, ModelError, UnknownArchitecture
from sift_cli.flops import cross_check
from sift_cli.models import build, load, parse_architecture
from sift_cli.models.calling import call, primary

IDS = InputSpec((1, 32), "int64", "input_ids", 101)
#: What compressed-tensors up to 0.14 says of weights that are sparse and not quantised.
SPARSE = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask", "global_sparsity": 0.5}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    return {kind: tinyhf.folder(root / kind, kind) for kind in tinyhf.CONFIGS}


@pytest.fixture
def gpt2(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny GPT-2 to spoil."""
    for file in folders["gpt2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def logits(module: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        (output,) = primary(call(module, inputs))
    return output


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", tinyhf.CONFIGS)
def test_a_folder_computes_what_the_library_computes(folders: dict[str, Path], kind: str) -> None:
    name, _ = tinyhf.CONFIGS[kind]
    loaded = load(folders[kind])
    theirs = getattr(import_transformers(), name).from_pretrained(folders[kind])
    assert type(loaded.module) is type(theirs)
    assert torch.equal(logits(loaded.module, loaded.inputs), logits(theirs, loaded.inputs))
    assert "past_key_values" not in call(loaded.module, loaded.inputs)
    assert not loaded.module.training
    for key, buffer in theirs.named_buffers():  # also those that are in no file: rotary frequencies, position ids
        assert torch.equal(loaded.module.get_buffer(key), buffer), key
    assert loaded.provenance["notes"] == []
    if kind in tinyhf.MACS:
        one, other = cross_check(loaded.module, loaded.inputs, nonzero={})
        assert one.dense == other.dense == tinyhf.MACS[kind]


@pytest.mark.parametrize("kind", tinyhf.CONFIGS)
def test_it_is_built_again_from_the_plan_alone(folders: dict[str, Path], kind: str) -> None:
    loaded = load(folders[kind])
    written = json.loads(json.dumps(loaded.architecture.to_json()))
    again = build(Architecture.from_json(written), device="meta")
    shapes = {name: tensor.shape for name, tensor in loaded.module.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    assert str(folders[kind]) not in json.dumps(written)
    on_meta = load(folders[kind], weights=False)
    assert (on_meta.specs, on_meta.architecture) == (loaded.specs, loaded.architecture)
    assert all(tensor.is_meta for tensor in on_meta.module.parameters())


def test_inputs(folders: dict[str, Path]) -> None:
    assert load(folders["gpt2"], weights=False).specs == (IDS,)
    assert load(folders["vit"], weights=False).specs == (InputSpec((1, 3, 32, 32), "float32", "pixel_values"),)
    source, target = load(folders["t5"], weights=False, input_shape=(1, 9)).specs
    assert source == InputSpec((1, 9), "int64", "input_ids", 101)
    assert target == InputSpec((1, 9), "int64", "decoder_input_ids", 101)


@pytest.mark.parametrize(
    ("name", "cls", "inputs"),
    [
        ("gpt2", "GPT2LMHeadModel", {"input_ids": (1, 128)}),
        ("bert", "BertForMaskedLM", {"input_ids": (1, 128)}),
        ("bert/BertModel", "BertModel", {"input_ids": (1, 128)}),
        ("llama", "LlamaForCausalLM", {"input_ids": (1, 128)}),
        ("opt", "OPTForCausalLM", {"input_ids": (1, 128)}),
        ("gpt_neox", "GPTNeoXForCausalLM", {"input_ids": (1, 128)}),
        ("t5", "T5ForConditionalGeneration", {"input_ids": (1, 128), "decoder_input_ids": (1, 128)}),
        ("bart", "BartForConditionalGeneration", {"input_ids": (1, 128), "decoder_input_ids": (1, 128)}),
        ("whisper/WhisperModel", "WhisperModel", {"input_features": (1, 80, 3000), "decoder_input_ids": (1, 128)}),
        ("wav2vec2", "Wav2Vec2ForCTC", {"input_values": (1, 16000)}),
        ("vit", "ViTForImageClassification", {"pixel_values": (1, 3, 224, 224)}),
        ("mobilevit", "MobileViTForImageClassification", {"pixel_values": (1, 3, 256, 256)}),
        ("clip", "CLIPModel", {"input_ids": (1, 38), "pixel_values": (1, 3, 224, 224)}),
        ("timesformer", "TimesformerForVideoClassification", {"pixel_values": (1, 8, 3, 224, 224)}),
        ("detr", "DetrForObjectDetection", {"pixel_values": (1, 3, 224, 224)}),
    ],
)
def test_names(name: str, cls: str, inputs: dict[str, tuple[int, ...]]) -> None:
    loaded = load(f"transformers:{name}", weights=False)
    assert loaded.architecture.name == cls == type(loaded.module).__name__
    assert {spec.name: spec.shape for spec in loaded.specs} == inputs


def test_a_seed_gives_the_same_weights() -> None:
    architecture = Architecture("transformers", "GPT2LMHeadModel", {
        "config": {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 11},
    })  # fmt: skip
    first, second = (build(architecture, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tied_weights_are_one_though_the_file_has_one(folders: dict[str, Path]) -> None:
    from sift_cli.checkpoint import open_checkpoint

    with open_checkpoint(folders["gpt2"]) as checkpoint:
        assert "lm_head.weight" not in checkpoint.tensors
    module = load(folders["gpt2"]).module
    assert module.get_parameter("lm_head.weight") is module.get_parameter("transformer.wte.weight")


def test_a_folder_without_its_weights_builds_by_name(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    assert load(f"transformers:{gpt2}", weights=False).architecture.name == "GPT2LMHeadModel"
    assert load(f"transformers:{gpt2}/GPT2Model", weights=False).architecture.name == "GPT2Model"
    with pytest.raises(CheckpointError, match=r"without model\.safetensors"):
        load(gpt2)


def test_half_precision_is_cast_and_noted(gpt2: Path) -> None:
    model = tinyhf.make("gpt2").to(torch.bfloat16)
    model.save_pretrained(gpt2)
    loaded = load(gpt2)
    assert loaded.provenance["notes"] == ["weights stored as BF16 were cast to float32"]
    assert all(p.dtype == torch.float32 for p in loaded.module.parameters())
    weight = loaded.module.get_parameter("transformer.h.0.attn.c_attn.weight")
    assert torch.equal(weight, model.get_parameter("transformer.h.0.attn.c_attn.weight").float())


def test_a_base_model_goes_into_a_head_and_what_is_missing_is_told(folders: dict[str, Path]) -> None:
    kind = folders["bert"]
    base = load(kind, arch=f"transformers:{kind}/BertModel", weights=False)
    assert base.architecture.name == "BertModel"
    with pytest.raises(ModelError, match=r"lacks pooler\.dense\.bias, pooler\.dense\.weight"):
        load(kind, arch=f"transformers:{kind}/BertModel")  # BertForMaskedLM is saved without a pooler
    with pytest.raises(ModelError, match=r"lacks classifier\.bias"):
        load(kind, arch=f"transformers:{kind}/BertForTokenClassification")


def test_what_the_model_does_not_use_is_told(folders: dict[str, Path]) -> None:
    folder = folders["llama"]
    loaded = load(folder, arch=f"transformers:{folder}/LlamaModel")
    assert loaded.provenance["notes"] == ["the model does not use lm_head.weight of the checkpoint"]


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_folder_of_sparse_weights_is_one_of_plain_weights(tmp_path: Path, key: str) -> None:
    """As compressed-tensors stores them: parts in the place of a matrix, and a word in the configuration."""
    plain, packed = (tinyhf.folder(tmp_path / name, "llama") for name in ("plain", "packed"))
    weights = load_file(plain / "model.safetensors")
    for name in [name for name in weights if "proj.weight" in name]:
        weights[name][::2] = 0
    save_file(weights, plain / "model.safetensors", {"format": "pt"})
    for name in [name for name in weights if "proj.weight" in name]:
        weight, stem = weights.pop(name), name.removesuffix(".weight")
        kept = weight != 0
        weights[f"{stem}.shape"] = np.array(weight.shape)
        weights[f"{stem}.compressed"] = weight[kept]
        weights[f"{stem}.bitmask"] = np.packbits(kept, axis=-1, bitorder="little")
        weights[f"{stem}.row_offsets"] = np.cumsum(kept.sum(1)) - kept.sum(1)
    save_file(weights, packed / "model.safetensors", {"format": "pt"})
    edit(packed, **{key: {**SPARSE, "format": "dense", "ignore": [], "config_groups": {}, "version": "0.13.0"}})
    one, other = load(plain), load(packed)
    assert other.architecture == one.architecture
    assert {name: array.tolist() for name, array in other.module.state_dict().items()} == {
        name: array.tolist() for name, array in one.module.state_dict().items()
    }


def test_code_in_a_folder_is_never_run(gpt2: Path, tmp_path: Path) -> None:
    (gpt2 / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    edit(gpt2, auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    assert load(gpt2).architecture.name == "GPT2LMHeadModel"  # the library has it itself
    edit(gpt2, model_type="evil")
    with pytest.raises(ModelError, match="names Python code of its own"):
        load(gpt2)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config: its weights are quantised"),
        ({"quantization_config": {**SPARSE, "config_groups": {"group_0": {}}}}, "its weights are quantised"),
        ({"quantization_config": {**SPARSE, "kv_cache_scheme": {"num_bits": 8}}}, "its weights are quantised"),
        ({"quantization_config": {**SPARSE, "format": "pack-quantized"}}, "its weights are quantised"),
        ({"quantization_config": {**SPARSE, "sparsity_config": {"format": "marlin-24"}}}, "its weights are quantised"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "its weights are quantised"),
        ({"compression_config": {"quant_method": "gptq"}}, "compression_config: its weights are quantised"),
        ({"fusion_config": {"patch_embeddings": True}}, "fusion_config, which asks for more"),
        ({"backbone_kwargs": {"checkpoint_path": "/evil"}}, "backbone_kwargs, which asks for more"),
        ({"n_layer": 10**7}, "too many"),
        ({"n_embd": 10**12}, "too large"),
        ({"model_type": "no_such_type"}, "model_type 'no_such_type', which transformers does not have"),
        ({"model_type": 7}, "model_type 7"),
        ({"n_head": 5}, "does not build"),
        ({"n_embd": "wide"}, "does not accept|does not build"),
        ({"vocab_size": 7}, "has another shape of"),
        ({"n_layer": 3}, r"lacks transformer\.h\.2"),
    ],
)
def test_configurations_that_are_refused(gpt2: Path, changes: dict[str, Any], says: str) -> None:
    edit(gpt2, **changes)
    with pytest.raises(ModelError, match=says):
        load(gpt2)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "gpt2", "model_type": "bert"}', '{"a": NaN}'])
def test_a_config_that_is_no_json_object(gpt2: Path, text: str) -> None:
    (gpt2 / "config.json").write_text(text)
    with pytest.raises((CheckpointError, ModelError)):
        load(gpt2)


def test_what_a_machine_chose_is_left_out(gpt2: Path) -> None:
    edit(gpt2, _attn_implementation="evil/kernel", _name_or_path="/home/somebody", torch_dtype="float16")
    config = load(gpt2, weights=False).architecture.kwargs["config"]
    assert not {"_attn_implementation", "attn_implementation", "_name_or_path", "dtype", "torch_dtype"} & config.keys()


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"config": []},
        {"config": {}},
        {"config": {"model_type": "gpt2"}, "trust_remote_code": True},
        {"config": {"model_type": "gpt2", "auto_map": {"AutoConfig": "evil.C"}}},
        {"config": {"model_type": "gpt2", "text_config": {"quantization_config": {"a": 1}}}},
        {"config": {"model_type": "gpt2", "attn_implementation": "evil/kernel"}},
        {"config": {"model_type": "gpt2", "dtype": "float16"}},
        {"config": {"model_type": "gpt2", "n_layer": 10**6}},
        {"config": {"model_type": "gpt2", "x": float("inf")}},
        {"config": {"model_type": "gpt2", "x": [[[[[[[[[[1]]]]]]]]]]}},
        {"config": {"model_type": "gpt2", "x": (1, 2)}},
    ],
)
def test_an_architecture_in_a_file_is_a_class_and_sizes(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="config"):
        Architecture.from_json({"source": "transformers", "name": "GPT2LMHeadModel", "kwargs": kwargs})


@pytest.mark.parametrize("name", ["AutoModel", "GPT2Config", "pipeline", "GPT2Tokenizer", "no_such_thing"])
def test_only_model_classes_are_built(name: str) -> None:
    with pytest.raises(ModelError):
        build(Architecture("transformers", name, {"config": {"model_type": "gpt2"}}))


def test_unknown_names() -> None:
    for text in ("transformers:gpt3", "transformers:gpt2/NoSuchClass", "transformers:nowhere/at/all"):
        with pytest.raises(UnknownArchitecture, match="there is no architecture"):
            parse_architecture(text)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra) as caught:
        parse_architecture("transformers:gpt2")
    assert caught.value.hint == "pip install 'sift-cli[transformers]'"


def test_the_network_is_off_only_while_sift_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from sift_cli.models.sources import transformers as source

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    seen = []
    real = import_transformers().GPT2LMHeadModel.__init__
    monkeypatch.setattr(
        import_transformers().GPT2LMHeadModel, "__init__",
        lambda self, *a, **k: (seen.append(constants.HF_HUB_OFFLINE), real(self, *a, **k))[1],
    )  # fmt: skip
    source.build("GPT2LMHeadModel", config={"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1})
    assert seen == [True]
    assert constants.HF_HUB_OFFLINE is False
