"""What is beside the weights in a checkpoint of torch's, above all the momenta of an optimizer."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_states import FORMS, Net, bits, dense, net, pruned_net, same_bits, whole
from torch import nn
from torch.nn.utils import prune

from sift_cli import api
from sift_cli.errors import CheckpointError, Malformed, ModelError

Optimizer = torch.optim.Optimizer


def by_decay(model: nn.Module) -> list[dict[str, Any]]:
    """As language models are trained: matrices decay, vectors do not. The first group has the later parameters."""
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [
        {"params": vectors, "weight_decay": 0.0},
        {"params": [parameter for parameter in model.parameters() if parameter.ndim > 1]},
    ]


def named_backwards(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return list(reversed(list(model.named_parameters())))


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw in two groups": lambda model: torch.optim.AdamW(by_decay(model), lr=0.01, amsgrad=True),
    "adam by names": lambda model: torch.optim.Adam(named_backwards(model), lr=0.01, weight_decay=0.1),  # type: ignore[arg-type]
}
PRUNED = {"conv.weight": "conv.weight_orig", "fc.weight": "fc.weight_orig", "fc.bias": "fc.bias_orig"}


def step(model: nn.Module, optimizer: Optimizer) -> None:
    x = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    optimizer.zero_grad()
    model.train()(x).square().sum().backward()
    optimizer.step()


def trained(make: Callable[[nn.Module], Optimizer]) -> tuple[Net, Optimizer]:
    model = pruned_net()
    optimizer = make(model)
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_carried_momenta_are_zero_where_weights_come_back(kind: str, legacy: bool, tmp_path: Path) -> None:
    model, optimizer = trained(OPTIMIZERS[kind])
    checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(checkpoint, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    api.densify(tmp_path / "x.pt", tmp_path / "y.pt", optimizer="carry")

    got = torch.load(tmp_path / "y.pt", weights_only=True)
    assert got["epoch"] == 3
    assert got["densified"]["sidebands"] == ["torch_prune"]
    fresh = Net()
    fresh.load_state_dict(got["model"], strict=True)
    again = OPTIMIZERS[kind](fresh)
    again.load_state_dict(got["optimizer"])
    stale = 0
    for name, parameter in fresh.named_parameters():
        before = optimizer.state[model.get_parameter(PRUNED.get(name, name))]
        after = again.state[parameter]
        assert before.keys() == after.keys()
        for key, old in before.items():
            if name in PRUNED and torch.is_tensor(old) and old.ndim:
                kept = model.get_buffer(f"{name}_mask").bool()
                stale += int(old[~kept].count_nonzero())
                assert same_bits(after[key][kept], old[kept])
                assert not after[key][~kept].any()
            else:
                assert same_bits(after[key], old) if torch.is_tensor(old) else after[key] == old
    assert stale or kind == "adamw in two groups"  # decay leaves momenta at pruned weights; AdamW's is decoupled
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    step(fresh, again)
    for name in PRUNED:
        assert (fresh.state_dict()[name] != before[name])[model.get_buffer(f"{name}_mask") == 0].all()


def test_reset_keeps_the_learning_rate_and_forgets_the_rest(tmp_path: Path) -> None:
    model, optimizer = trained(OPTIMIZERS["adamw in two groups"])
    optimizer.param_groups[1]["lr"] = 0.125
    torch.save({"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}, tmp_path / "x.ckpt")
    api.densify(tmp_path / "x.ckpt", tmp_path / "y.pt")
    got = torch.load(tmp_path / "y.pt", weights_only=True)
    fresh = Net()
    fresh.load_state_dict(got["state_dict"], strict=True)
    again = OPTIMIZERS["adamw in two groups"](fresh)
    again.load_state_dict(got["optimizer_states"][0])
    assert not again.state
    assert [group["lr"] for group in again.param_groups] == [0.01, 0.125]
    assert [group["weight_decay"] for group in again.param_groups] == [0.0, 0.01]
    step(fresh, again)


class Twins(nn.Module):
    """Two matrices of one shape, the second one pruned, and a third that may be frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x)))


def twins(tmp_path: Path, make: Callable[[Twins], Optimizer]) -> tuple[Twins, Optimizer]:
    torch.manual_seed(0)
    model = Twins()
    prune.l1_unstructured(model.b, "weight", 9)
    optimizer = make(model)
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x.pt")
    return model, optimizer


def sgd(parameters: Any) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.5)


def test_weights_of_one_shape_are_told_apart_by_their_order(tmp_path: Path) -> None:
    model, optimizer = twins(tmp_path, lambda model: sgd(model.parameters()))
    api.densify(tmp_path / "x.pt", tmp_path / "y.pt", optimizer="carry")
    state = torch.load(tmp_path / "y.pt", weights_only=True)["optimizer"]["state"]
    for key, parameter in enumerate(optimizer.param_groups[0]["params"]):
        old, new = optimizer.state[parameter]["momentum_buffer"], state[key]["momentum_buffer"]
        if parameter is model.b.weight_orig:
            assert old[model.b.weight_mask == 0].all()
            assert same_bits(new, torch.where(model.b.weight_mask == 1, old, 0))
        else:
            assert same_bits(new, old)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: sgd([{"params": list(model.b.parameters())}, {"params": list(model.a.parameters())}]),
        lambda model: sgd([*model.a.parameters(), *model.b.parameters()]),
    ],
    ids=["two groups", "one is frozen"],
)
def test_a_state_of_which_it_is_not_clear_whose_it_is(make: Callable[[Twins], Optimizer], tmp_path: Path) -> None:
    twins(tmp_path, make)
    with pytest.raises(ModelError, match=r"3 weights of shape \[4, 4\]"):
        api.densify(tmp_path / "x.pt", tmp_path / "y.pt", optimizer="carry")
    assert not (tmp_path / "y.pt").exists()
    api.densify(tmp_path / "x.pt", tmp_path / "y.pt", optimizer="reset")


def test_an_optimizer_without_momenta_has_nothing_to_lose(tmp_path: Path) -> None:
    twins(tmp_path, lambda model: torch.optim.SGD(model.parameters(), lr=0.25))
    api.densify(tmp_path / "x.pt", tmp_path / "y.pt", optimizer="carry")
    assert torch.load(tmp_path / "y.pt", weights_only=True)["optimizer"]["param_groups"][0]["lr"] == 0.25


def cerebras(tmp_path: Path, spoil: Callable[[dict[str, Any]], object] = lambda _: None) -> dict[str, Any]:
    """Weights and momenta with NaN in the place of what is pruned, and what else such a checkpoint holds."""
    state, kept = whole()
    momenta = {
        key: {"exp_avg": FORMS["nan"]({name: tensor * 2}, {n: m for n, m in kept.items() if n == name})[name]}
        for key, (name, tensor) in enumerate(state.items())
        if "running" not in name and "num_batches" not in name
    }
    optimizer = {"state": momenta, "param_groups": [{"params": list(momenta), "lr": 0.1}], "sparsity": {"x": 1}}
    checkpoint = {
        "model": FORMS["nan"](state, kept),
        "ema": {name: tensor + 1 for name, tensor in FORMS["nan"](state, kept).items()},
        "optimizer": optimizer,
        "sparsity": [{"step": 7}],
        "global_step": 7,
        "network": "a name",
    }
    spoil(checkpoint)
    torch.save(checkpoint, tmp_path / "x.pt")
    return checkpoint


def test_a_cerebras_checkpoint(tmp_path: Path) -> None:
    source = cerebras(tmp_path)
    api.densify(tmp_path / "x.pt", tmp_path / "y.pt", optimizer="carry")
    got = torch.load(tmp_path / "y.pt", weights_only=True)
    # The second copy of the weights is sparse too, and nothing would say so.
    assert got.keys() == {"model", "optimizer", "global_step", "network", "densified"}
    wanted = dense(*whole())
    assert all(same_bits(got["model"][name], tensor) for name, tensor in wanted.items())
    assert got["optimizer"].keys() == {"state", "param_groups"}
    for key, entry in source["optimizer"]["state"].items():
        momentum = got["optimizer"]["state"][key]["exp_avg"]
        assert bits(momentum) == bits(torch.where(entry["exp_avg"].isnan(), 0, entry["exp_avg"]))
    fresh = Net()
    fresh.load_state_dict(got["model"], strict=True)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_momenta_that_diverged_are_refused(value: float, tmp_path: Path) -> None:
    def spoil(checkpoint: dict[str, Any]) -> None:
        vector = next(e for e in checkpoint["optimizer"]["state"].values() if e["exp_avg"].ndim == 1)
        vector["exp_avg"][0] = value

    cerebras(tmp_path, spoil)
    with pytest.raises(Malformed, match="the training diverged"):
        api.densify(tmp_path / "x.pt", tmp_path / "y.pt", optimizer="carry")
    api.densify(tmp_path / "x.pt", tmp_path / "y.pt")


def not_its_own(checkpoint: dict[str, Any], **changes: Any) -> None:
    checkpoint["optimizer"].update(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": {0: 1}},
        {"param_groups": [1]},
        {"param_groups": [{"params": 3}]},
        {"param_groups": [{"params": [[0]]}]},
        {"param_groups": [{"params": [0, 1], "param_names": ["a"]}]},
    ],
)
def test_what_is_no_optimizer_s_state_is_none(changes: dict[str, Any], tmp_path: Path) -> None:
    cerebras(tmp_path, lambda checkpoint: not_its_own(checkpoint, **changes))
    with pytest.raises(ModelError, match="no state of an optimizer"):
        api.densify(tmp_path / "x.pt", tmp_path / "y.pt", optimizer="carry")


def test_arguments_of_a_script_need_trust(tmp_path: Path) -> None:
    source = cerebras(tmp_path, lambda checkpoint: checkpoint.update(args=argparse.Namespace(lr=0.1)))
    with pytest.raises(CheckpointError, match="more beside its weights than plain data") as refused:
        api.densify(tmp_path / "x.pt", tmp_path / "y.pt")
    assert ".safetensors" in (refused.value.hint or "")
    assert api.densify(tmp_path / "x.pt", tmp_path / "y.safetensors").certificate.held
    api.densify(tmp_path / "x.pt", tmp_path / "y.pt", allow_pickle=True)
    got = torch.load(tmp_path / "y.pt", weights_only=False)
    assert got["args"] == source["args"]
    assert all(same_bits(got["model"][name], tensor) for name, tensor in dense(*whole()).items())


def test_a_pickled_module_becomes_a_state_dict(tmp_path: Path) -> None:
    model = net()
    prune.identity(model.fc, "weight")
    model.fc.weight_mask[0] = 0
    del model.fc.weight  # what the hook computed has no place in a pickle
    torch.save(model, tmp_path / "x.pt")
    api.densify(tmp_path / "x.pt", tmp_path / "y.pt", allow_pickle=True)
    got = torch.load(tmp_path / "y.pt", weights_only=True)
    Net().load_state_dict(got, strict=True)
    assert not got["fc.weight"][0].any()
    assert same_bits(got["fc.weight"][1:], net().state_dict()["fc.weight"][1:])
