"""Models whose initialisation is known, reached as ``initnets:gpt2``; ``d`` is their width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sift_cli.compat import import_torchvision


def gpt2(d: int = 48) -> nn.Module:
    import_torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=d, n_head=4, n_positions=32, **tokens))


def bert(d: int = 48) -> nn.Module:
    import_torchvision()
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
    return BertForMaskedLM(BertConfig(hidden_size=d, intermediate_size=4 * d, **sizes))


def llama(d: int = 48) -> nn.Module:
    import_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50}
    return LlamaForCausalLM(LlamaConfig(hidden_size=d, intermediate_size=3 * d, pad_token_id=0, **sizes))


def t5(d: int = 48) -> nn.Module:
    import_torchvision()
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"num_layers": 2, "num_heads": 4, "vocab_size": 50}
    return T5ForConditionalGeneration(T5Config(d_model=d, d_kv=d // 4, d_ff=3 * d, **sizes))


def clip(d: int = 48) -> nn.Module:
    import_torchvision()
    from transformers import CLIPTextConfig, CLIPTextModel

    tokens = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4}
    return CLIPTextModel(CLIPTextConfig(hidden_size=d, intermediate_size=3 * d, **sizes, **tokens))


def recurrent(d: int = 48) -> nn.Module:
    return nn.Sequential(nn.Embedding(10, d, padding_idx=3), nn.LSTM(d, d, 2), nn.GRU(d, 2 * d), nn.Bilinear(d, d, d))


def encoder(d: int = 48) -> nn.Module:
    """Its layers are deep copies of one that is not in the model."""
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(d, 4, 3 * d, batch_first=True), 2)


class Computed(nn.Module):
    """Every number is computed by the constructor and handed over."""

    def __init__(self, d: int = 48) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, d) * d**-0.5)
        self.head = nn.Linear(d, 3 * d)
        nn.init.uniform_(self.head.weight, -1 / math.sqrt(3 * d), 1 / math.sqrt(3 * d))
        nn.init.normal_(self.head.bias, 0.0, math.sqrt(2 / d))
        self.fixed = nn.Linear(d, d, bias=False)
        nn.init.normal_(self.fixed.weight, 0.0, 0.02)
        with torch.no_grad():
            self.fixed.weight[: d // 3].mul_(0.5)
            self.fixed.weight[2 * (d // 3) :].fill_(0.25)


class Untold(nn.Module):
    """What no operator tells."""

    def __init__(self, d: int = 48) -> None:
        super().__init__()
        self.orthogonal = nn.Parameter(nn.init.orthogonal_(torch.empty(d, d)))
        self.columns = nn.Parameter(torch.randn(d, 64))
        self.columns.data[:, :32].zero_()
        self.slope = nn.Parameter(torch.linspace(0, 1, 7))
        self.growing = nn.Parameter(torch.arange(float(d)))
        self.scale = nn.Parameter(torch.log(torch.tensor(10.0)))
        self.dirac = nn.Parameter(nn.init.dirac_(torch.empty(d, d, 3)))


class Choosy(nn.Module):
    """Reads sizes from tensors; its own initialisation needs more than a module."""

    def __init__(self, d: int = 48) -> None:
        super().__init__()
        self.fc = nn.Linear(int(torch.tensor([1, d]).max()), int(torch.arange(5).sum()))
        self.seen: list[str] = []
        self.initialise(self.fc)

    def initialise(self, module: nn.Linear) -> None:
        if self.seen:
            raise RuntimeError("once is enough")
        self.seen.append("fc")
        nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Tied(nn.Module):
    """Ties its head to its embedding after both were initialised: the same calls made now would write it twice."""

    def __init__(self, d: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, d)
        self.head = nn.Linear(d, 10, bias=False)
        self.initialise()
        self.head.weight = self.embedding.weight

    def initialise(self) -> None:
        self.embedding.weight.data.normal_(0.0, self.embedding.embedding_dim**-0.5)
        self.head.weight.data.zero_()


def cut() -> nn.Module:
    """Normal draws cut off: where it matters, where it does not, and where it matters at another place."""
    layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(3))
    for layer, bound in zip(layers, (2.0, 100.0, 1.5), strict=True):
        nn.init.trunc_normal_(layer.weight, std=0.1, a=-bound * 0.1, b=bound * 0.1)
    return layers


def computed(d: int = 48) -> nn.Module:
    return Computed(d)


def tied(d: int = 48) -> nn.Module:
    return Tied(d)


def untold(d: int = 48) -> nn.Module:
    return Untold(d)


def choosy(d: int = 48) -> nn.Module:
    return Choosy(d)
