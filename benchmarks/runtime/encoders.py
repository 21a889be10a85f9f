"""The layers of two language models on embeddings, of float inputs [batch, length, 768]; weights as transformers draws
them. The embeddings and the head are left out: they are no layers of weights that are multiplied, or are never sparse.
"""

from __future__ import annotations

import torch
from torch import nn

from sift_cli.compat import import_transformers

#: The exporters write attention by its products, as all runtimes know it.
_PLAIN = {"attn_implementation": "eager"}
_LONGEST = 1024


class Bert(nn.Module):
    """BERT-base: 12 encoder layers, width 768."""

    def __init__(self) -> None:
        super().__init__()
        transformers = import_transformers()
        model = transformers.BertModel(transformers.BertConfig(**_PLAIN), add_pooling_layer=False)
        self.encoder = model.encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x).last_hidden_state


class Gpt2(nn.Module):
    """GPT-2 small: 12 decoder layers, width 768, each position seeing those before it."""

    def __init__(self) -> None:
        super().__init__()
        transformers = import_transformers()
        model = transformers.GPT2Model(transformers.GPT2Config(use_cache=False, **_PLAIN))
        self.h, self.ln_f = model.h, model.ln_f
        mask = torch.full((1, 1, _LONGEST, _LONGEST), torch.finfo(torch.float32).min).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        for block in self.h:
            x = block(x, attention_mask=self.mask[:, :, :length, :length])
            x = x[0] if isinstance(x, tuple) else x
        return self.ln_f(x)
