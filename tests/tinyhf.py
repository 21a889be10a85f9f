"""Tiny models of transformers with seeded weights, and what each costs, worked out by hand from its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sift_cli.compat import import_transformers

_TOKENS = {"vocab_size": 101, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
#: Class and configuration, by model type.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {**_TOKENS, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64}),
    "llama": (
        "LlamaForCausalLM",
        {
            **_TOKENS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 64,
        },
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {
            "vocab_size": 101, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
    "bert": (
        "BertForMaskedLM",
        {
            "vocab_size": 101, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 64,
        },
    ),
    "vit": (
        "ViTForImageClassification",
        {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 32, "patch_size": 8,
        },
    ),
}  # fmt: skip
#: MACs of the example of 32 tokens, or of the 17 positions of an image of 16 patches. Two layers each; a product of
#: attention is positions² × width, and there are two a layer.
MACS = {
    "gpt2": 32 * (2 * 12 * 32 * 32 + 32 * 101) + 2 * 2 * 32 * 32 * 32,
    "llama": 32 * (2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 32 * 101) + 2 * 2 * 32 * 32 * 32,
    "bert": 32 * (2 * (4 * 32 * 32 + 2 * 32 * 64) + 32 * 32 + 32 * 101) + 2 * 2 * 32 * 32 * 32,
    "vit": 16 * 3 * 8 * 8 * 32 + 17 * 2 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 2 * 17 * 17 * 32 + 32 * 2,
}


def make(kind: str, **other: Any) -> nn.Module:
    """The model, with random biases and norms too: what is 0 or 1 hides mistakes."""
    transformers = import_transformers()
    name, config = CONFIGS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.AutoConfig.for_model(kind, **{**config, **other}))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.2)
    return model.eval()


def folder(path: Path, kind: str, **saving: Any) -> Path:
    """The model as its library saves it."""
    transformers = import_transformers()
    transformers.utils.logging.disable_progress_bar()
    make(kind).save_pretrained(path, **saving)
    return path
