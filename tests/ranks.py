"""One of several processes that train one model, run as ``python ranks.py RANK WORLD FOLDER``.

Each case trains on this rank's share of the batch and stores masks and weights in ``FOLDER/CASE.RANK.pt``; the test
compares them with one process that has the whole batch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import loops
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import sift_cli
from sift_cli.errors import ModelError

STEPS = 8
#: Case → how the model is wrapped, options of sparsify, backward passes a step.
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "ddp-rigl": ("ddp", {"rule": "rigl"}, 1),
    "ddp-set": ("ddp", {"rule": "set"}, 1),
    "ddp-accumulated": ("ddp", {"rule": "rigl"}, 2),
    "ddp-erk": ("ddp", {"rule": "rigl", "distribution": "erk", "mask": "topk"}, 1),
    "fsdp-static": ("fsdp", {"rule": "static"}, 1),
    "fsdp-rigl": ("fsdp", {"rule": "rigl"}, 1),
    "fsdp-accumulated": ("fsdp", {"rule": "rigl"}, 2),
    "fsdp-gmp": ("fsdp", {"rule": "gmp"}, 1),
    "fsdp-pattern": ("fsdp", {"rule": "rigl", "pattern": "2:8T"}, 1),
    "ddp-resumed": ("ddp", {"rule": "rigl"}, 1),
    "fsdp-resumed": ("fsdp", {"rule": "rigl"}, 1),
}


def wrap(kind: str, model: nn.Sequential) -> nn.Module:
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if kind == "fsdp":
        for layer in (model[0], model[2]):  # its own units; the rest belongs to the root
            fully_shard(layer)
        fully_shard(model)
    return model


def whole(tensor: Any) -> torch.Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def start(kind: str, options: dict[str, Any]) -> tuple[nn.Module, torch.optim.Optimizer, sift_cli.Sparsifier]:
    model = wrap(kind, loops.net())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sparsifier = sift_cli.sparsify(
        model, optimizer, sparsity=0.75, total_steps=STEPS, frequency=2, stop=1, seed=3, **options
    )
    return model, optimizer, sparsifier


def train(kind: str, options: dict[str, Any], parts: int, rank: int, world: int, resumed: bool) -> dict[str, Any]:
    """A training by ``world`` processes, of which this is ``rank``."""
    model, optimizer, sparsifier = start(kind, options)
    for step in range(1, STEPS + 1):
        if resumed and step == STEPS // 2 + 1:
            states = [
                {n: whole(p) for n, p in model.named_parameters()},
                optimizer.state_dict(),
                sparsifier.state_dict(),
            ]
            model, optimizer, sparsifier = start(kind, options)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
                    value = states[0][name]
                    local.copy_(value.chunk(world)[rank] if kind == "fsdp" else value)
            optimizer.load_state_dict(states[1])
            sparsifier.load_state_dict(states[2])
        inputs, labels = (tensor.chunk(world)[rank] for tensor in loops.batch(step))
        optimizer.zero_grad()
        for part, (x, y) in enumerate(zip(inputs.chunk(parts), labels.chunk(parts), strict=True)):
            last = part == parts - 1
            if kind == "ddp":
                model.require_backward_grad_sync = last
            if kind == "fsdp":
                model.set_requires_gradient_sync(last)
            (nn.functional.cross_entropy(model(x), y) / parts).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    names = {name: name.removeprefix("module.") for name, _ in model.named_parameters()}
    return {
        "weights": {names[name]: whole(parameter) for name, parameter in model.named_parameters()},
        "moments": {names[name]: whole(optimizer.state[p]["exp_avg"]) for name, p in model.named_parameters()},
        "masks": sparsifier.masks,
        "shown": {names[name]: whole(mask) for name, mask in sift_cli.masks(model).items()},
        "grown": [sum(grown for _, grown in update.exchanged.values()) for update in sparsifier.history],
        "flops": sparsifier.flops((torch.zeros(8, 6),), model=loops.net().to("meta")).to_json(),
        "refused": refused(sparsifier),
        "local": sum(weight.mask.bits.numel() for weight in sparsifier._weights),
    }


def refused(sparsifier: sift_cli.Sparsifier) -> str:
    try:
        sparsifier.flops((torch.zeros(8, 6),))
    except ModelError as error:
        return error.message
    return ""


def differ(rank: int) -> str:
    """What each rank is told when weights have come apart."""
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sift_cli.sparsify(model, optimizer, "set", sparsity=0.75, total_steps=10, frequency=1, stop=1)
    if rank == 1:
        with torch.no_grad():
            model[2].weight.mul_(torch.arange(16.0))
    try:
        loops.train(model, optimizer, 1, 1)
    except ModelError as error:
        return error.message
    return ""


def diverge(rank: int) -> list[dict[str, Any]]:
    """A gradient that is not finite on one rank stops the update on all of them."""
    model = wrap("ddp", loops.net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = sift_cli.sparsify(model, optimizer, "rigl", sparsity=0.75, total_steps=10, frequency=1, stop=1)
    loops.loss(model, 1).backward()
    if rank == 1:
        sparsifier._weights[0]._outside.fill_(torch.nan)
    optimizer.step()
    return [update.exchanged for update in sparsifier.history]


def main(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    for case, (kind, options, parts) in CASES.items():
        torch.save(train(kind, options, parts, rank, world, "resumed" in case), folder / f"{case}.{rank}.pt")
    torch.save({"differ": differ(rank), "diverge": diverge(rank)}, folder / f"errors.{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
