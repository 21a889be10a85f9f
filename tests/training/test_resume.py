"""Stopping and going on is the same as not stopping, to the bit."""

from __future__ import annotations

import copy
import io
from typing import Any

import loops
import pytest
import torch

import sift_cli
from sift_cli.errors import ModelError
from sift_cli.training import Sparsifier

RULES = ("static", "set", "rigl", "gmp")


def start(rule: str = "rigl", seed: int = 1) -> tuple[Any, torch.optim.Optimizer, Sparsifier]:
    model = loops.net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    options = {"sparsity": 0.75, "total_steps": 20, "frequency": 3, "stop": 1, "seed": seed}
    return model, optimizer, sift_cli.sparsify(model, optimizer, rule, **options)


def through_a_file(*states: Any) -> Any:
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stop", [5, 6, 7])
@pytest.mark.parametrize("sparsifier_first", [False, True])
def test_bit_identical(rule: str, stop: int, sparsifier_first: bool) -> None:
    """Stopped before, at and after an update; the states loaded in either order."""
    straight, optimizer, whole = start(rule)
    loops.train(straight, optimizer, 1, 20)
    model, optimizer, sparsifier = start(rule)
    loops.train(model, optimizer, 1, stop)
    states = through_a_file(model.state_dict(), optimizer.state_dict(), sparsifier.state_dict())
    model, optimizer, sparsifier = start(rule, seed=2)  # whose masks and seed are others until the state is loaded
    if sparsifier_first:
        sparsifier.load_state_dict(states[2])
    model.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    if not sparsifier_first:
        sparsifier.load_state_dict(states[2])
    loops.train(model, optimizer, stop + 1, 20, lambda: loops.check_zeros(model, optimizer))
    assert all(map(torch.equal, straight.state_dict().values(), model.state_dict().values()))
    assert all(map(torch.equal, whole.masks.values(), sparsifier.masks.values()))
    assert (whole.history, whole.step_count, whole.kept) == (sparsifier.history, 20, sparsifier.kept)
    inputs = (torch.zeros(8, 6),)
    assert whole.flops(inputs) == sparsifier.flops(inputs)


def test_masks_are_one_bit_a_weight() -> None:
    _, _, sparsifier = start()
    state = sparsifier.state_dict()
    assert {name: bits.numel() for name, bits in state["masks"].items()} == {"2.weight": 48, "4.weight": 60}
    assert all(bits.dtype == torch.uint8 for bits in state["masks"].values())


def test_a_state_is_a_snapshot() -> None:
    model, optimizer, sparsifier = start("set")
    state = sparsifier.state_dict()
    before = {name: bits.clone() for name, bits in state["masks"].items()}
    loops.train(model, optimizer, 1, 9)
    assert all(map(torch.equal, before.values(), state["masks"].values()))
    assert state["step"] == 0


def test_a_mask_drawn_over_a_sparse_model_is_refused() -> None:
    """Weights first and sparsify second would throw weights away: another mask lies over them."""
    model, optimizer, _ = start("set")
    loops.train(model, optimizer, 1, 10)
    later = loops.net()
    later.load_state_dict(model.state_dict())
    before = [parameter.detach().clone() for parameter in later.parameters()]
    with pytest.raises(ModelError, match=r"2\.weight has \d+ zeros already") as caught:
        sift_cli.sparsify(later, torch.optim.SGD(later.parameters()), "static", sparsity=0.75)
    assert "load the states" in str(caught.value.hint)
    assert all(map(torch.equal, before, later.parameters()))
    sift_cli.sparsify(later, torch.optim.SGD(later.parameters()), "static", sparsity=0.75, mask="topk")
    assert all(map(torch.equal, before, later.parameters())), "the largest weights are those that are left"


def test_masks_of_a_model_that_do_not_fit_its_weights_are_refused() -> None:
    """As above, for a model that came with masks: weights of a later step need the masks of that step."""
    model, optimizer, _ = start("set")
    later = copy.deepcopy(model)
    loops.train(model, optimizer, 1, 10)
    later.load_state_dict(model.state_dict())
    before = [parameter.detach().clone() for parameter in later.parameters()]
    with pytest.raises(ModelError, match="and its mask lies elsewhere"):
        sift_cli.sparsify(later, torch.optim.SGD(later.parameters()), total_steps=1000)
    assert all(map(torch.equal, before, later.parameters()))


def test_the_state_of_something_else_is_refused() -> None:
    _, _, sparsifier = start()
    before, state = sparsifier.masks, sparsifier.state_dict()
    other = {**state["masks"], "6.weight": state["masks"]["2.weight"]}
    short = {**state["masks"], "4.weight": state["masks"]["2.weight"]}
    for wrong, message in (
        ({"step": 3}, "no state of a Sparsifier"),
        ({**state, "masks": other}, "'6.weight' is not in both"),
        ({**state, "masks": short}, r"another size for '4\.weight'"),
    ):
        with pytest.raises(ModelError, match=message):
            sparsifier.load_state_dict(wrong)
    assert all(map(torch.equal, before.values(), sparsifier.masks.values()))
