"""Masks that training scripts keep beside the model, in an optimizer of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sparse_states import MASKED, Net, State, bits, dense, net, same_bits, whole
from torch import nn

from sift_cli import api
from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.sidebands import find
from sift_cli.errors import Malformed


class MaskOptimizer(torch.optim.Optimizer):
    """Keeps masks as the class of this purpose in Sparse-IFT's code does: the state has them, the group the names."""

    def __init__(self, model: nn.Module, kept: State) -> None:
        named = [(name, one) for name, one in model.named_parameters() if name in kept]
        names, parameters = [name for name, _ in named], [one for _, one in named]
        super().__init__(parameters, {"sparsity": 2 / 3, "names": names, "flops": [], "density": 1 / 3})
        for name, one in named:
            self.state[one] = {"sparsity": 2 / 3, "mask": kept[name]}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "step_number": 7, "_current_total_density": 1 / 3}


def model_of(state: State) -> Net:
    model = net()
    model.load_state_dict(state)
    return model


def sparse_ift(state: State, kept: State, wrapper: str = "state_dict", replicas: tuple[str, str] = ("", "")) -> Any:
    """A checkpoint as its CIFAR script saves it; ``wrapper`` is "model" in that for ImageNet."""
    model = model_of(dense(state, kept))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimizer.step()
    model.load_state_dict(dense(state, kept))
    masks = MaskOptimizer(model, kept).state_dict()
    masks["param_groups"][0]["names"] = [replicas[1] + name for name in masks["param_groups"][0]["names"]]
    weights = {replicas[0] + name: tensor for name, tensor in model.state_dict().items()}
    return {
        "epoch": 3, wrapper: weights, "optimizer": optimizer.state_dict(), "global_step": 12, "mask_optimizer": masks,
    }  # fmt: skip


def cerebras(state: State, kept: State) -> Any:
    """Releases 2.0 and 2.1: weights that no mask keeps may have values, and states go by names."""
    momenta = {name: {"momentum": tensor} for name, tensor in state.items() if name in kept}
    groups = [{"name": name, "param_names": (name,), "sparsity": 2 / 3} for name in kept]
    sparsity = {"state": {name: {"mask": mask} for name, mask in kept.items()}, "param_groups": groups}
    return {"model": state, "optimizer": {"state": momenta, "param_groups": [], "sparsity": sparsity}, "global_step": 9}


def as_numbers(document: Any) -> Any:
    """torch's own ``load_state_dict`` makes a mask of the dtype of its weight."""
    for entry in document["mask_optimizer"]["state"].values():
        entry["mask"] = entry["mask"].float()
    return document


FORMS = {
    "CIFAR": sparse_ift,
    "ImageNet": lambda state, kept: sparse_ift(state, kept, "model"),
    "the weights of replicas": lambda state, kept: sparse_ift(state, kept, replicas=("module.", "")),
    "the masks of replicas": lambda state, kept: sparse_ift(state, kept, replicas=("", "module.")),
    "masks as numbers": lambda state, kept: as_numbers(sparse_ift(state, kept)),
    "Cerebras": cerebras,
}


def written(form: str, path: Path, **options: Any) -> tuple[State, State]:
    state, kept = whole()
    state = {name: tensor.abs() for name, tensor in state.items()}  # a product has signs, which are tested elsewhere
    torch.save(FORMS[form](state, kept), path, **options)
    return state, kept


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", FORMS)
def test_the_weights_are_the_dense_ones(form: str, legacy: bool, tmp_path: Path) -> None:
    state, kept = written(form, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        assert find(checkpoint).keys() == {"mask_optimizer"}
    done = api.densify(tmp_path / "x.pt", tmp_path / "y.safetensors")
    assert done.certificate.held
    got = {name.removeprefix("module."): tensor for name, tensor in load_file(done.path).items()}
    wanted = dense(state, kept)
    assert got.keys() == wanted.keys()
    assert all(same_bits(got[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("optimizer", ["reset", "carry"])
def test_a_checkpoint_of_sparse_ift_goes_on_densely(optimizer: Any, tmp_path: Path) -> None:
    """What its script loads for training on is there, without masks."""
    _, kept = written("CIFAR", tmp_path / "x.pt")
    before = torch.load(tmp_path / "x.pt", weights_only=True)
    done = api.densify(tmp_path / "x.pt", tmp_path / "y.pt", optimizer=optimizer)
    after = torch.load(done.path, weights_only=True)
    assert after.keys() == before.keys() - {"mask_optimizer"} | {"densified"}
    assert (after["epoch"], after["global_step"]) == (3, 12)
    model = model_of(after["state_dict"])
    sgd = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    sgd.load_state_dict(after["optimizer"])
    assert sgd.param_groups[0]["lr"] == 0.1
    for (index, entry), (name, parameter) in zip(
        before["optimizer"]["state"].items(), model.named_parameters(), strict=True
    ):
        if optimizer == "reset":
            assert not sgd.state[parameter]
            continue
        wanted = entry["momentum_buffer"]
        assert wanted.any()
        wanted = wanted * kept[name] if name in kept else wanted
        assert torch.equal(sgd.state[parameter]["momentum_buffer"], wanted), index


def test_it_is_no_optimizer_whose_state_is_carried(tmp_path: Path) -> None:
    """Of two weights of one shape it has one, so that its own state could not be told apart."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    kept = {"1.weight": torch.eye(4, dtype=torch.bool)}
    model.load_state_dict(dense(model.state_dict(), kept))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    momenta = [optimizer.state[one]["momentum_buffer"].clone() for one in model.parameters()]
    masks = MaskOptimizer(model, kept).state_dict()
    document = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "mask_optimizer": masks}
    torch.save(document, tmp_path / "x.pt")
    api.densify(tmp_path / "x.pt", tmp_path / "y.pt", optimizer="carry")
    after = torch.load(tmp_path / "y.pt", weights_only=True)["optimizer"]["state"]
    assert torch.equal(after[0]["momentum_buffer"], momenta[0])
    assert torch.equal(after[1]["momentum_buffer"], momenta[1] * kept["1.weight"])


def test_a_pickle_that_was_allowed(tmp_path: Path) -> None:
    state, kept = whole()
    document = sparse_ift(state, kept) | {"more": nn.ReLU()}
    torch.save(document, tmp_path / "x.pt")
    done = api.densify(tmp_path / "x.pt", tmp_path / "y.safetensors", allow_pickle=True)
    got = load_file(done.path)
    assert bits(got["fc.weight"].abs()) == bits(dense(state, kept)["fc.weight"].abs())


def broken(change: Any) -> Any:
    state, kept = whole()
    document = sparse_ift(state, kept)
    change(document["mask_optimizer"]["state"], document["mask_optimizer"]["param_groups"][0])
    return document


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state, group: group.pop("names"), "does not say which weights they are of"),
        (lambda state, group: group["names"].pop(), "does not say which weights they are of"),
        (lambda state, group: group["names"].__setitem__(0, 5), "does not say which weights they are of"),
        (lambda state, group: group["names"].__setitem__(0, "cnv.weight"), "'cnv.weight': there is no such weight"),
        (lambda state, group: group["names"].reverse(), r"the mask of 'fc.weight': it is \[4, 2, 3, 3\] and"),
        (lambda state, group: state[0].update(mask=2 * state[0]["mask"]), "'conv.weight': it is a mask and has values"),
    ],
)
def test_refused(change: Any, says: str, tmp_path: Path) -> None:
    torch.save(broken(change), tmp_path / "x.pt")
    with pytest.raises(Malformed, match=says):
        api.densify(tmp_path / "x.pt", tmp_path / "y.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def test_what_has_no_masks_in_its_state_is_no_optimizer_of_masks(tmp_path: Path) -> None:
    state, kept = whole()
    document = sparse_ift(state, kept)
    for entry in document["mask_optimizer"]["state"].values():
        del entry["mask"]
    torch.save(document, tmp_path / "x.pt")
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        assert checkpoint.masks_apart() is None
        assert set(MASKED) <= checkpoint.tensors.keys()
        assert not find(checkpoint)
