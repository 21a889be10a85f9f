"""A small net, a small loop, and what has to hold after each of its steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import sift_cli


def net(seed: int = 0) -> nn.Sequential:
    """(N, 6) → (N, 4); its second and third layer become sparse by default, 384 and 480 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 4)
    )


def batch(step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(step)
    return torch.randn(size, 6, generator=random), torch.randint(4, (size,), generator=random)


def loss(model: nn.Module, step: int) -> Tensor:
    inputs, labels = batch(step)
    return nn.functional.cross_entropy(model(inputs).float(), labels)


def train(
    model: nn.Module, optimizer: Optimizer, first: int, last: int, check: Callable[[], None] | None = None
) -> None:
    """Steps ``first`` to ``last``, inclusive."""
    for step in range(first, last + 1):
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()
        if check is not None:
            check()


def check_zeros(model: nn.Module, optimizer: Optimizer) -> None:
    """Weight, gradient and state are exactly +0 outside the masks, and not all 0 inside."""
    masks = sift_cli.masks(model)
    assert masks
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        state = (slot for slot in optimizer.state[weight].values() if isinstance(slot, Tensor))
        slots = [slot for slot in state if slot.numel() == mask.numel()]
        for tensor in (weight.detach(), weight.grad, *slots):
            if tensor is not None:
                assert tensor.shape == mask.shape
                outside = tensor[~mask].double()
                assert not (outside != 0).any()
                assert not outside.signbit().any()
        assert weight[mask].count_nonzero() > 0
