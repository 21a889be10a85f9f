"""The ``config.json`` of a stranger's folder: it chooses a model, and neither files nor work beyond its weights."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.promise import BrokenPromise, watched
from safetensors.numpy import save_file

from sift_cli import models
from sift_cli.core import configs
from sift_cli.errors import ModelError

GPT = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 8, "n_positions": 8}
TIMM = {"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 2}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "code of its own": ({**GPT, "auto_map": {"AutoModel": "x.Y"}}, "auto_map, which asks for more than a model"),
    "quantised": ({**GPT, "quantization_config": {"quant_method": "x"}}, "its weights are quantised"),
    "a file for timm": ({**TIMM, "model_args": {"checkpoint_path": "/s.pt"}}, "model_args, which asks for more"),
    "a folder for timm": ({**TIMM, "architecture": "local-dir:/s"}, "which is no name of a model"),
    "a folder up": ({"model_type": "timm_backbone", "backbone": "../s"}, "which is no name of a model"),
    "a model of the Hub": ({"model_type": "detr", "backbone": "hf-hub:a/b"}, "which is no name of a model"),
    "layers": ({**GPT, "n_layer": 10**6}, "n_layer = 1000000, which is too many"),
    "layers by stage": ({"model_type": "swin", "depths": [1, 10**8]}, "depths.1 = 100000000, which is too many"),
    "labels": ({**GPT, "num_labels": 2**30}, "num_labels = 1073741824, which is too many"),
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
        ({"model_type": "swin", "depths": [9] * 1000, "num_heads": [1] * 1000}, "hidden_size"),  # 2^999 channels
        ({"model_type": "bert", "hidden_size": 8, "num_attention_heads": 0}, "integer modulo by zero"),
    ],
)
def test_a_model_that_is_not_in_its_file(config: dict[str, Any], why: str, tmp_path: Path) -> None:
    """It is refused before memory is taken for it, and whatever the library raises of it."""
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match=why):
        models.load(folder_of(config, tmp_path / "folder"))


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
