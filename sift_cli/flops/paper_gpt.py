"""The convention of the Sparse-IFT paper for GPT: FLOPs of a training step on one sequence.

With L layers of width d and inner width ff, h heads, a vocabulary of V and sequences of S tokens,

    3 · [ L · (2 S (4 d² + 2 d ff)(1 − s) + 4 S² d + 3 h S²) + 2 S V d ]

forward and twice that backward: linear layers with kept weights only, attention products, softmax, logits. Biases,
norms, activations and the lookup of embeddings count nothing. This is appendix F of Hoffmann et al., "Training
Compute-Optimal Large Language Models", without the embedding as a product; it reproduces the paper's 8.763E11, 1.029E12
and 2.4845E12 for GPT-3 Small, its wide form at 50 % and Medium.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from sift_cli.core.counts import FlopReport, LayerCount
from sift_cli.errors import ModelError

#: A backward pass costs two forward passes.
PASSES = 3


@dataclass(frozen=True)
class GptCount:
    """FLOPs of a training step on one sequence, by cause.

    Attributes:
        linear: Linear layers of the blocks, kept weights only.
        attention: Attention products and softmax.
        vocabulary: Logits.
    """

    linear: int
    attention: int
    vocabulary: int

    @property
    def total(self) -> int:
        return self.linear + self.attention + self.vocabulary


def block_weights(width: int, inner: int) -> int:
    """Weights of the linear layers of one block: four of d × d, and two of d × ff."""
    return 4 * width**2 + 2 * width * inner


def count_gpt(linear: int, *, layers: int, width: int, heads: int, vocabulary: int, length: int) -> GptCount:
    """The formula.

    Args:
        linear: Kept weights of the linear layers of all blocks, L (4 d² + 2 d ff)(1 − s).
        layers, width, heads, vocabulary, length: L, d, h, V and S.
    """
    return GptCount(
        PASSES * 2 * length * linear,
        PASSES * layers * (4 * length**2 * width + 3 * heads * length**2),
        PASSES * 2 * length * vocabulary * width,
    )


def overhead(before: GptCount, after: GptCount) -> dict[str, Fraction]:
    """What an increase consists of, as shares of it by cause: "vocabulary", "attention", and "rounding" of the widths
    and of the number of kept weights. Empty where nothing changed.

    >>> small = count_gpt(12 * block_weights(768, 3072), layers=12, width=768, heads=12, vocabulary=50257, length=1024)
    >>> wide = count_gpt(6 * block_weights(1092, 4344), layers=12, width=1092, heads=12, vocabulary=50257, length=1024)
    >>> {cause: f"{float(share):.1%}" for cause, share in overhead(small, wide).items()}
    {'vocabulary': '65.5%', 'attention': '32.0%', 'rounding': '2.4%'}
    """
    more = after.total - before.total
    if not more:
        return {}
    return {
        "vocabulary": Fraction(after.vocabulary - before.vocabulary, more),
        "attention": Fraction(after.attention - before.attention, more),
        "rounding": Fraction(after.linear - before.linear, more),
    }


def count_paper_gpt(module: nn.Module, report: FlopReport) -> FlopReport:
    """The convention for a causal language model of the transformers library.

    Args:
        module: The model.
        report: Its MACs on one sequence, as counted by ``count_module``.

    Returns:
        ``report`` under the convention: ``total`` is FLOPs of a training step on one sequence, kept weights only.

    Raises:
        ModelError: It is no such model.
    """
    return replace(report, convention="paper-gpt", total=gpt_count(module, report).total)


def gpt_count(module: nn.Module, report: FlopReport) -> GptCount:
    """As :func:`count_paper_gpt`, by cause. Sizes are those that were counted, so a widened model needs no
    configuration that knows them; the numbers of layers and of heads, which widening keeps, are the configuration's."""
    config: Any = getattr(module, "config", None)
    layers, heads = (getattr(config, key, None) for key in ("num_hidden_layers", "num_attention_heads"))
    head: Any = getattr(module, "get_output_embeddings", lambda: None)()
    causal = "CausalLM" in type(module).__name__ or "LMHead" in type(module).__name__
    if not causal or getattr(config, "is_encoder_decoder", False) or not (layers and heads and head is not None):
        raise ModelError(
            f"--count paper-gpt is defined for causal language models of transformers, not for {type(module).__name__}",
            hint="use --count macs",
        )
    weight: Tensor = head.weight
    tied = {name for name, tensor in module.named_parameters(remove_duplicate=False) if tensor is weight}
    logits = [layer for layer in report.layers if layer.weight in tied]
    products = [layer for layer in report.layers if layer.weight is None]
    linear = [layer for layer in report.layers if layer.weight is not None and layer.weight not in tied]
    length = _length(logits, weight)
    if length is None or any(layer.op != "linear" for layer in linear):
        raise ModelError(
            f"--count paper-gpt knows linear layers, attention and logits; {type(module).__name__} has something else",
            hint="use --count macs",
        )
    return GptCount(
        PASSES * 2 * sum(layer.sparse for layer in linear),
        PASSES * (2 * sum(layer.dense for layer in products) + layers * 3 * heads * length**2),
        PASSES * 2 * sum(layer.sparse for layer in logits),
    )


def _length(logits: list[LayerCount], weight: Tensor) -> int | None:
    """S, the number of tokens whose logits are computed."""
    positions, rest = divmod(sum(layer.dense for layer in logits), weight.numel())
    return positions if positions and not rest else None


def overhead_note(before: GptCount, after: GptCount) -> str | None:
    """The sentence for a plan: how much more a training step costs, split by cause; None where it costs no more."""
    shares: Mapping[str, Fraction] = overhead(before, after)
    if after.total <= before.total:
        return None
    split = ", ".join(f"{cause} {float(share):.1%}" for cause, share in shares.items())
    return f"a training step costs {after.total / before.total - 1:+.2%} FLOPs by the paper's formula for GPT: {split}"
