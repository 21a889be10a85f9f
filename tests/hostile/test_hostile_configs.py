"""The ``config.json`` of a stranger's folder: it chooses a model, and neither files nor work beyond its weights."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacks.promise import BrokenPromise, watched
from safetensors.numpy import save_file

from sift_cli import api, models
from sift_cli.core import configs
from sift_cli.errors import ModelError

GPT = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 8, "n_positions": 8}
NEO = {"model_type": "gpt_neo", "num_layers": 1, "attention_types": [[["global"], 1]], "hidden_size": 4, "num_heads": 1}
TIMM = {"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 2}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "code of its own": ({**GPT, "auto_map": {"AutoModel": "x.Y"}}, "auto_map, which asks for more than a model"),
    "quantised": ({**GPT, "quantization_config": {"quant_method": "x"}}, "its weights are quantised"),
    "a file for timm": ({**TIMM, "model_args": {"checkpoint_path": "/s.pt"}}, "model_args, which asks for more"),
    "a folder for timm": ({**TIMM, "architecture": "local-dir:/s"}, "which is no name of a model"),
    "a folder up": ({"model_type": "timm_backbone", "backbone": "../s"}, "which is no name of a model"),
    "a model of the Hub": ({"model_type": "detr", "backbone": "hf-hub:a/b"}, "which is no name of a model"),
    "layers": ({**GPT, "n_layer": 10**6}, "n_layer = 1000000, which is too many"),
    "layers by stage": ({"model_type": "swin", "depths": [1, 10**8]}, "depths = 100000001, which is too many"),
    "labels": ({**GPT, "num_labels": 2**30}, "num_labels = 1073741824, which is too many"),
    "layers of stages": ({"model_type": "swin", "depths": [4000] * 2}, "depths = 8000, which is too many"),
    "values": ({**GPT, "id2label": {str(i): "" for i in range(2**17)}}, "more than 131,072 values"),
    "a text": ({**GPT, "tokenizer_class": "x" * 2**22}, "longer than 4,194,304 characters"),
    "rotations": ({**GPT, "rope_parameters": {"partial_rotary_factor": 5e5}}, "which is no part of a head"),
    "a number": ({**GPT, "vocab_size": 2**40}, "which is too large"),
    "depth": ({**GPT, "a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}}}, "nested too deeply"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_that_asks_for_more_than_a_shape(case: str) -> None:
    config, why = REFUSED[case]
    with pytest.raises(ValueError, match=why):
        configs.portable(config)


def test_the_configurations_that_the_lies_are_made_from_are_right() -> None:
    for config in (GPT, TIMM, {"model_type": "timm_backbone", "backbone": "resnet18.a1_in1k"}):
        assert configs.portable(config) == config


def folder_of(config: dict[str, Any], folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"w": np.ones((2, 2), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({**GPT, "n_layer": 4096}, "more than 16,384 modules"),
        ({**GPT, "n_positions": 2**31 - 1}, "17,179,870,128 parameters"),  # 8 to each position, 1,000 beside them
        ({"model_type": "swin", "depths": [4] * 1000, "num_heads": [1] * 1000}, "hidden_size"),  # 2^999 channels
        ({"model_type": "bert", "hidden_size": 8, "num_attention_heads": 0}, "integer modulo by zero"),
        ({**GPT, "n_layer": 100}, "has 87,344 parameters, the file fewer"),  # 872 to each layer, 144 beside them
        # A mask of positions² bytes, in no file.
        ({**NEO, "vocab_size": 8, "max_position_embeddings": 12000}, "has tables of 144,000,000 bytes"),
        ({"model_type": ["gpt2"]}, "which transformers does not have"),
    ],
)
@pytest.mark.parametrize("weights", [True, False])
def test_a_model_that_is_not_in_its_file(config: dict[str, Any], why: str, weights: bool, tmp_path: Path) -> None:
    """It is refused before memory is taken for it, by a dry run too, and whatever the library raises of it."""
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match=why):
        models.load(folder_of(config, tmp_path / "folder"), weights=weights)


def test_what_does_not_build_without_values_is_not_built_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On real tensors the same configuration would have asked for 8 GB before it fails."""
    transformers = pytest.importorskip("transformers")
    built = []

    def fails(self: Any, config: Any) -> None:
        built.append(torch.empty(0).device.type)
        raise RuntimeError("no values")

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "__init__", fails)
    with pytest.raises(ModelError, match="no values"):
        models.load(folder_of(GPT, tmp_path / "folder"), weights=False)
    assert built == ["meta"]


@pytest.mark.parametrize("size", [-1, 10**5, [-1, 2], [10**5, 200]])
def test_sizes_that_are_none_of_an_example(size: Any, tmp_path: Path) -> None:
    """A convolution has no size of images in its weights; a user can still give one."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV1Config(depth_multiplier=0.01, min_depth=8, num_labels=2)
    transformers.MobileNetV1ForImageClassification(config).save_pretrained(tmp_path)
    changed = {**json.loads((tmp_path / "config.json").read_text()), "image_size": size}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ModelError, match="does not say what its input looks like"):
        models.load(tmp_path, weights=False)
    assert models.load(tmp_path, weights=False, input_shape=(1, 3, 32, 32)).specs[0].shape == (1, 3, 32, 32)


def test_timm_would_open_what_a_configuration_names(tmp_path: Path) -> None:
    """Else refusing it would prove nothing."""
    timm = pytest.importorskip("timm")
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.pt").write_bytes(b"PK")
    with (
        pytest.raises(BrokenPromise, match=r"secret\.pt"),
        watched(tmp_path / "folder"),
        pytest.raises(pickle.UnpicklingError),
    ):
        timm.create_model("resnet18", checkpoint_path=str(tmp_path / "secret.pt"))


def test_a_table_that_is_a_plain_attribute_is_copied_in_a_dry_run(tmp_path: Path) -> None:
    """VideoMAE keeps its positions so; the whole of an honest folder of it ended in a traceback."""
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=16, patch_size=8, num_frames=2, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    transformers.VideoMAEForVideoClassification(config).save_pretrained(tmp_path)
    assert api.plan(tmp_path, sparsity="0.5").sparse_layers
