"""Which layers become sparse, how many of their weights stay, and what the mask of a name is."""

from __future__ import annotations

from collections.abc import Callable

import loops
import nets
import pytest
import torch
from torch import nn

import sift_cli
from sift_cli.errors import PlanError
from sift_cli.surgery import masks_of
from sift_cli.training.names import plain_names, unwrapped


def masks(model: nn.Module, **options: object) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sparsifier = sift_cli.sparsify(model, optimizer, "static", **{"sparsity": 0.75, **options})
    sparsifier.remove()
    return sparsifier.masks


class Language(nn.Module):
    """Embedding, layers, head with the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(32, 16), nn.Parameter(torch.zeros(1, 8, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight


def frozen() -> nn.Module:
    model = loops.net()
    model[2].weight.requires_grad_(False)
    return model


CHOSEN: dict[str, tuple[Callable[[], nn.Module], dict[str, object], set[str]]] = {
    "not the first and the last": (loops.net, {}, {"2.weight", "4.weight"}),
    "shortcuts too": (nets.TinyResNet, {}, {"layer1.conv1.weight", "layer1.conv2.weight", "layer2.conv1.weight",
                                            "layer2.conv2.weight", "layer2.shortcut.0.weight"}),
    "not depthwise": (nets.TinyMobileNet, {}, {"pointwise.weight"}),
    "depthwise by name": (nets.TinyMobileNet, {"only": ("depth*",)}, {"depthwise.weight"}),
    "not what is looked up": (Language, {}, {"block.self_attn.in_proj_weight", "block.self_attn.out_proj.weight",
                                             "block.linear1.weight", "block.linear2.weight"}),
    "not what is frozen": (frozen, {}, {"4.weight"}),
    "only": (loops.net, {"only": ("0", "2")}, {"0.weight", "2.weight"}),
    "keep": (loops.net, {"keep": ("2",)}, {"4.weight"}),
    "both": (loops.net, {"only": ("[0-4]",), "keep": ("2",)}, {"0.weight", "4.weight"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOSEN)
def test_layers(case: str) -> None:
    make, options, expected = CHOSEN[case]
    found = masks(make(), **options)
    assert found.keys() == expected
    assert sum(int(mask.sum()) for mask in found.values()) == sum(mask.numel() for mask in found.values()) // 4


@pytest.mark.parametrize("sparsity", ["0.9", "1/3", "0.123", 0.7])
def test_counts_are_exact(sparsity: object) -> None:
    """Of both together to the weight, of each to less than a weight."""
    from fractions import Fraction

    kept = 1 - Fraction(str(sparsity))
    found = masks(loops.net(), sparsity=sparsity)
    assert sum(int(mask.sum()) for mask in found.values()) == round(kept * 864)
    assert all(abs(int(mask.sum()) - kept * mask.numel()) < 1 for mask in found.values())


@pytest.mark.parametrize("kind", ["er", "erk"])
def test_distributions(kind: str) -> None:
    """3 × 3 convolutions of 16→16, 16→32 and 32→32 channels: densities in proportion to Σ sizes / Π sizes."""
    found = masks(nets.TinyResNet(), sparsity=0.9, distribution=kind)
    density = {name: float(mask.float().mean()) for name, mask in found.items()}
    small, middle, large = (
        density[name] for name in ("layer1.conv1.weight", "layer2.conv1.weight", "layer2.conv2.weight")
    )
    taps = 6 if kind == "erk" else 0
    assert small / large == pytest.approx((32 + taps) / 256 * 1024 / (64 + taps), rel=0.01)
    assert middle / large == pytest.approx((48 + taps) / 512 * 1024 / (64 + taps), rel=0.01)
    assert sum(int(mask.sum()) for mask in found.values()) == round(0.1 * sum(mask.numel() for mask in found.values()))


def test_topk() -> None:
    model = loops.net()
    before = {name: parameter.detach().abs().clone() for name, parameter in model.named_parameters()}
    for name, mask in masks(model, mask="topk").items():
        assert before[name][mask].min() > before[name][~mask].max()


def test_a_pattern_needs_room() -> None:
    """Where a layer is too small for a tile it is unstructured, as in a transform."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    found = masks(model, pattern="2:8T")
    assert {name: (int(mask.sum()), mask.numel()) for name, mask in found.items()} == {
        "1.weight": (16, 64), "2.weight": (64, 256)
    }  # fmt: skip
    assert (found["2.weight"].view(2, 8, 2, 8).sum(1) == 2).all()


def test_masks_are_functions_of_seed_and_name() -> None:
    one, two = masks(loops.net(seed=0), seed=7), masks(loops.net(seed=1), seed=7)
    assert all(map(torch.equal, one.values(), two.values()))
    assert not any(map(torch.equal, one.values(), masks(loops.net(), seed=8).values()))
    alone = masks(loops.net(), seed=7, only=("4",))
    assert torch.equal(alone["4.weight"], one["4.weight"])


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "parallel": nn.DataParallel,
    "average": torch.optim.swa_utils.AveragedModel,
    "compiled and parallel": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    "parallel and compiled": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_names_do_not_depend_on_wrappers(how: str) -> None:
    plain = loops.net()
    model = WRAPPED[how](loops.net())
    assert list(plain_names(model).values()) == [name for name, _ in plain.named_parameters()]
    assert type(unwrapped(model)) is nn.Sequential
    assert all(map(torch.equal, masks(plain).values(), masks(model).values()))


def test_a_compiled_layer_and_one_that_is_called_module() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(4, 4)

    model = nn.Sequential(nn.Linear(4, 4), torch.compile(Inner(), backend="eager"))
    assert list(plain_names(model).values())[2:] == ["1.module.weight", "1.module.bias"]


def test_frozen_masks_of_a_model_stay() -> None:
    """A masked weight that is not trained is left alone."""
    model = loops.net()
    masks(model)
    model[2].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sift_cli.sparsify(model, optimizer, "set", total_steps=10, frequency=2)
    frozen, weight = masks_of(model)["2.weight"], model[2].weight.detach().clone()
    loops.train(model, optimizer, 1, 10)
    assert sparsifier.masks.keys() == {"4.weight"}
    assert torch.equal(masks_of(model)["2.weight"], frozen)
    assert torch.equal(model[2].weight, weight)


def test_no_layer_left() -> None:
    with pytest.raises(PlanError, match="no layer is left"):
        masks(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
