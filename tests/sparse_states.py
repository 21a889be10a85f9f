"""A small net's weights and masks, and what each way to keep masks in a file makes of them, written by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

State = dict[str, torch.Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Linear(4, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.inner(self.norm(self.conv(x)).mean((2, 3))))


MASKED = ("conv.weight", "fc.weight")


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def masks(state: Mapping[str, torch.Tensor], names: tuple[str, ...] = MASKED) -> State:
    """Every third weight of the masked tensors is kept."""
    return {name: torch.arange(state[name].numel()).reshape(state[name].shape) % 3 == 1 for name in names}


def whole() -> tuple[State, State]:
    """Weights, all of them there, and masks. Two of the weights that are kept are zeros."""
    state = {name: tensor.clone() for name, tensor in net().state_dict().items()}
    state["fc.weight"].view(-1)[1] = 0.0
    state["fc.weight"].view(-1)[4] = -0.0
    return state, masks(state)


def dense(state: State, kept: State) -> State:
    """+0 in the place of every weight that is not kept."""
    return {
        name: torch.where(kept[name], tensor, torch.zeros(())).to(tensor.dtype) if name in kept else tensor
        for name, tensor in state.items()
    }


def nan(state: State, kept: State) -> State:
    return {
        name: tensor.masked_fill(~kept[name], torch.nan) if name in kept else tensor for name, tensor in state.items()
    }


def mask_buffers(state: State, kept: State) -> State:
    return dense(state, kept) | {f"{name}_mask": mask for name, mask in kept.items()}


def torch_prune(state: State, kept: State) -> State:
    """As torch writes it, with whatever values the pruned weights had."""
    values = {f"{name}_orig" if name in kept else name: tensor for name, tensor in state.items()}
    return values | {f"{name}_mask": mask.float() for name, mask in kept.items()}


def pruned_net() -> Net:
    """Pruned by torch itself, weights and one bias."""
    model = net()
    prune.random_unstructured(model.conv, "weight", 0.5)
    prune.l1_unstructured(model.fc, "weight", 7)
    prune.l1_unstructured(model.fc, "bias", 1)
    return model


#: By the name of the sideband.
FORMS = {"nan": nan, "mask_buffers": mask_buffers, "torch_prune": torch_prune}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def bits(tensor: torch.Tensor) -> bytes:
    return np.ascontiguousarray(tensor.contiguous().view(-1).view(torch.uint8).numpy()).tobytes()
