"""What makes widening an arbitrary module hard, one trap a test. Expected sizes are worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sift_cli.errors import PlanError, UnsupportedOp
from sift_cli.flops.shadow import shadow
from sift_cli.surgery import apply_edits
from sift_cli.transforms import TransformOptions
from sift_cli.transforms._widen import Widened, widen
from sift_cli.widths import Face, LayerRole, trace_widths
from sift_cli.widths.graph import _System
from sift_cli.widths.polynomial import Polynomial

QUADRUPLE = Fraction(4)  # k² at 75 %, so that every width doubles
IMAGE = (torch.zeros(1, 3, 8, 8),)
TOKENS = (torch.zeros(1, 6, dtype=torch.int64),)


def doubled(net: nn.Module, inputs: tuple[Tensor, ...] = IMAGE, **options: Any) -> Widened:
    return widen(shadow(net, "meta"), tuple(t.to("meta") for t in inputs), QUADRUPLE, _options(**options))


def _options(**options: Any) -> TransformOptions:
    return TransformOptions(Fraction(3, 4), **options)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


class Attention(nn.Module):
    """A transformer block by hand: 4 heads of 16, a fused q, k, v, and a scale that the constructor computed."""

    def __init__(self, dim: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.embed = nn.Embedding(100, dim)
        self.positions = nn.Parameter(torch.zeros(1, 32, dim))
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, 100, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions[:, : tokens.shape[1]]
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * self.scale
        return self.head(x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c)))


def test_heads_keep_their_number_and_grow() -> None:
    widened = doubled(Attention(), TOKENS)
    assert shapes(widened.module) == {
        "embed.weight": (100, 128), "positions": (1, 32, 128), "norm.weight": (128,), "norm.bias": (128,),
        "qkv.weight": (384, 128), "qkv.bias": (384,), "out.weight": (128, 128), "out.bias": (128,),
        "head.weight": (100, 128),
    }  # fmt: skip
    assert widened.module.heads == 4
    assert widened.module.norm.normalized_shape == (128,)


def test_a_float_that_follows_from_a_width_follows_it() -> None:
    widened = doubled(Attention(), TOKENS)
    assert widened.module.scale == 32**-0.5
    assert any("scale" in note for note in widened.notes)


def test_what_each_weight_does_in_attention() -> None:
    graph = trace_widths(Attention().eval(), TOKENS)
    assert graph.attention == {"qkv.weight": {"q", "k", "v"}, "out.weight": {"out"}}
    assert graph.roles["embed.weight"] is LayerRole.EMBEDDING
    assert graph.roles["head.weight"] is LayerRole.LAST


def test_tied_weights_stay_tied() -> None:
    net = Attention()
    net.head.weight = net.embed.weight
    widened = doubled(net, TOKENS)
    assert widened.module.head.weight is widened.module.embed.weight
    assert widened.module.embed.weight.shape == (100, 128)


def test_sixty_four_becomes_ninety_one_as_in_the_paper() -> None:
    """Table 14: GPT-2's 12 heads of 64 at 50 % are 12 heads of 91, a width of 1092."""
    half = widen(shadow(Attention(768, 12), "meta"), (TOKENS[0].to("meta"),), Fraction(2), _options())
    assert half.module.qkv.weight.shape == (3276, 1092)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **arguments: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.rnn = kind(16, 32, 2, batch_first=True, bidirectional=True, **arguments)
        self.fc = nn.Linear(2 * arguments.get("proj_size", 32), 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.rnn(self.embed(tokens))[0][:, -1])


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind: type[nn.RNNBase], gates: int) -> None:
    net = Recurrent(kind)
    widened = doubled(Recurrent(kind), TOKENS)
    assert shapes(widened.module)["rnn.weight_ih_l1_reverse"] == (gates * 64, 128)
    assert shapes(widened.module)["fc.weight"] == (5, 128)
    real, _ = apply_edits(net, widened.edits)
    assert (real.rnn.input_size, real.rnn.hidden_size) == (32, 64)
    # The layer keeps its parameters a second time, in a list: a gradient must reach the ones that the optimizer has.
    real(torch.zeros(2, 6, dtype=torch.int64)).sum().backward()
    assert all(parameter.grad is not None for parameter in real.rnn.parameters())


def test_a_projected_lstm() -> None:
    widened = doubled(Recurrent(nn.LSTM, proj_size=8), TOKENS)
    assert shapes(widened.module)["rnn.weight_hr_l0"] == (16, 64)


class Auxiliary(nn.Module):
    """A second head that runs in train mode only, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.body = nn.Conv2d(16, 32, 3)
        self.auxiliary = nn.Linear(16, 10)
        self.forgotten = nn.Linear(16, 10)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        y = self.fc(self.body(x).mean((2, 3)))
        return (y, self.auxiliary(x.mean((2, 3)))) if self.training else y


def test_heads_of_train_mode_keep_their_classes() -> None:
    found = shapes(doubled(Auxiliary()).module)
    assert found["auxiliary.weight"] == (10, 32)
    assert found["forgotten.weight"] == (10, 16)


def test_a_model_without_classes_keeps_its_features() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = shapes(doubled(net).module)
    assert found["0.weight"] == (32, 3, 3, 3)
    assert found["1.weight"] == (32, 32, 3, 3)


def test_only_the_primary_output_is_kept() -> None:
    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = self.body(x)
            return {"hidden_states": hidden, "logits": self.head(hidden)}

    assert shapes(doubled(Outputs(), (torch.zeros(1, 8),)).module)["body.weight"] == (32, 8)


class Calls(nn.Module):
    """A convolution to 32 channels, ``change`` of them, and a convolution from as many as come out."""

    def __init__(self, change: Callable[[Tensor], Tensor], channels: int = 32) -> None:
        super().__init__()
        self.first, self.change, self.second = nn.Conv2d(3, 32, 1), change, nn.Conv2d(channels, 32, 1)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.change(self.first(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("change", "channels"),
    [
        (lambda x: x.chunk(2, 1)[0], 16),
        (lambda x: torch.chunk(x, 2, dim=1)[1], 16),
        (lambda x: x.split(x.shape[1] // 4, 1)[3], 8),
        (lambda x: F.pad(x, (1, 1, 1, 1)), 32),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 32),
        (lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), 32),
        (lambda x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1), 32),
        (lambda x: torch.addcmul(x, x, x), 32),
        (lambda x: x[:, ::2], 16),
        (lambda x: F.pixel_shuffle(x, 2), 8),
        (lambda x: F.glu(x, 1), 16),
    ],
    ids=["chunk", "torch.chunk", "split", "pad", "reflect", "interpolate", "fold", "addcmul", "step", "shuffle", "glu"],
)  # fmt: skip
def test_channels_pass_through(change: Callable[[Tensor], Tensor], channels: int) -> None:
    found = shapes(doubled(Calls(change, channels)).module)
    assert found["first.weight"] == (64, 3, 1, 1)
    assert found["second.weight"] == (64, 2 * channels, 1, 1)


def test_a_tuple_of_widths_follows() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sizes = (16, 48)
            self.first, self.left, self.right = nn.Linear(8, 64), nn.Linear(16, 32), nn.Linear(48, 32)
            self.fc = nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            a, b = torch.split(self.first(x), self.sizes, dim=-1)
            return self.fc(self.left(a) + self.right(b))

    widened = doubled(Split(), (torch.zeros(1, 8),))
    assert widened.module.sizes == (32, 96)
    assert shapes(widened.module)["right.weight"] == (64, 96)


def test_queries_that_no_contraction_counts_keep_their_number() -> None:
    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 32)
            self.queries = nn.Parameter(torch.zeros(1, 7, 32))
            self.fc = nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.scaled_dot_product_attention(self.queries, self.first(x), self.first(x)).mean(1))

    assert shapes(doubled(Pooling(), (torch.zeros(1, 9, 8),)).module)["queries"] == (1, 7, 64)


def test_a_position_table_keeps_its_length_and_says_it_is_the_input() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 32, 4, 4)
            self.positions = nn.Parameter(torch.zeros(1, 4, 32))
            self.mix = nn.Linear(4, 4)  # over positions
            self.fc = nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2) + self.positions
            x = x.transpose(1, 2)
            return self.fc((x + self.mix(x)).mean(2))

    widened = doubled(Patches())
    found = shapes(widened.module)
    assert (found["positions"], found["mix.weight"]) == ((1, 4, 64), (4, 4))
    assert widened.graph.literals == ()


# Errors: each names the place, and what to do.


def test_a_literal_can_be_left_alone() -> None:
    class Literal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 6)
            self.f1, self.f2 = nn.Linear(32, 64), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.f2(self.f1(self.second(self.first(x)).view(-1, 32)))

    with pytest.raises(PlanError, match=r"second\.weight axis 0 .*\(32\): it is fixed by a literal at test_traps.py:"):
        doubled(Literal())
    widened = doubled(Literal(), allow_partial=True)
    assert shapes(widened.module) == {
        "first.weight": (32, 3, 3, 3), "first.bias": (32,), "second.weight": (32, 32, 6, 6), "second.bias": (32,),
        "f1.weight": (128, 32), "f1.bias": (128,), "f2.weight": (5, 128), "f2.bias": (5,),
    }  # fmt: skip
    assert any("stays 32" in note for note in widened.notes)


def test_an_operator_that_fixes_a_size_is_named() -> None:
    def through_numpy_size(x: Tensor) -> Tensor:
        return x * torch.ones(int(x.shape[1]), 1, 1)

    with pytest.raises(PlanError, match=r"first\.weight axis 0 .*test_traps.py:"):
        doubled(Calls(through_numpy_size))


def test_an_operator_that_does_not_run_is_named_with_its_line() -> None:
    def by_value(x: Tensor) -> Tensor:
        return x[:, : int(x.sum())]

    with pytest.raises(UnsupportedOp, match=r"test_traps.py:\d+") as refused:
        trace_widths(Calls(by_value).eval(), IMAGE)
    assert "--kind" in (refused.value.hint or "")


def test_a_width_that_is_given_by_hand() -> None:
    widened = doubled(Attention(), TOKENS, layer_width=("embed=160",))
    assert "embed.weight" in shapes(widened.module)
    assert shapes(widened.module)["embed.weight"] == (100, 160)


def test_a_width_by_hand_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PlanError, match=r"a width that fits|whole number"):
        doubled(Attention(), TOKENS, layer_width=("qkv=400",))
    with pytest.raises(PlanError, match="no layer matches 'nothing=4'"):
        doubled(Attention(), TOKENS, layer_width=("nothing=4",))


def test_a_kept_face_is_no_hidden_one() -> None:
    graph = trace_widths(Attention().eval(), TOKENS)
    assert {group.face for group in graph.groups if group.scales and group.axes} == {Face.HIDDEN}


def test_every_head_keeps_its_size() -> None:
    """BERT for pre-training: the logits are the output that a user means, and the two classes of the next sentence
    have to stay two."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.words, self.pair = nn.Linear(8, 16), nn.Linear(16, 30), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = self.body(x)
            return {"hidden_states": hidden, "logits": self.words(hidden), "pair": self.pair(hidden)}

    found = shapes(doubled(Heads(), (torch.zeros(1, 8),)).module)
    assert (found["body.weight"], found["words.weight"], found["pair.weight"]) == ((32, 8), (30, 32), (2, 32))


def test_a_table_of_coordinates_is_an_input() -> None:
    """Swin v2 makes its position bias by a small net of coordinates, which are two however wide the model is."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("coordinates", torch.rand(6, 5, 2))
            self.body, self.bias, self.out = (
                nn.Linear(8, 16),
                nn.Sequential(nn.Linear(2, 32), nn.ReLU()),
                nn.Linear(32, 16),
            )
            self.head = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x) + self.out(self.bias(self.coordinates * 8)).mean((0, 1)))

    widened = doubled(Biased(), (torch.zeros(1, 8),))
    found = shapes(widened.module)
    assert found["coordinates"] == (6, 5, 2)
    assert (found["bias.0.weight"], found["out.weight"]) == ((64, 2), (32, 64))
    assert widened.graph.roles["bias.0.weight"] is LayerRole.FIRST


def test_a_quotient_of_zero_is_no_size() -> None:
    """A window as large as the image makes one step more than 0 // stride; sizes are positive, so that an equation may
    be divided by one that all its terms share, and by this one it may not (HaloNet)."""
    window = sympy.Symbol("window", positive=True, integer=True)
    system = _System({window: 8})
    assert system.quotient(window - 8, sympy.Integer(4)) == Polynomial()
    assert [poly for poly, _ in system.equations] == [Polynomial.of(window) - Polynomial.constant(8)]
