"""One model in several processes: copies of it (DDP), or shards (FSDP2, whose parameters are ``DTensor``)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sift_cli.errors import ModelError


class Replicas:
    """The processes that train one model, and what they have to say to each other at an update.

    Without ``torch.distributed``, or with one process, there is nothing to say.

    Args:
        group: The processes; None for all of them.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self.several = dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1

    def sum(self, tensor: Tensor) -> Tensor:
        """``tensor`` added up over all processes, in place."""
        if self.several:
            dist.all_reduce(tensor, group=self._group)
        return tensor

    def any(self, flag: Tensor) -> bool:
        """Whether a 0-d bool tensor is True in any process."""
        return bool(self.sum(flag.float()))

    def agree(self, digest: str, step: int) -> None:
        """Make sure that every process has the same digest.

        Raises:
            ModelError: One has not.
        """
        if not self.several:
            return
        digests: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(digests, digest, group=self._group)
        differ = [rank for rank, other in enumerate(digests) if other != digests[0]]
        if differ:
            raise ModelError(
                f"after step {step} the masks of rank {differ[0]} are not those of rank 0",
                hint="the weights of the ranks differ: start from the same ones, and let DDP or FSDP average gradients",
            )


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a ``DTensor``; without a process group there is none."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Any) -> Tensor:
    """What this process has of ``tensor``, sharing its memory."""
    with torch.no_grad():
        found: Tensor = tensor.to_local() if is_sharded(tensor) else tensor.detach()
        return found


def whole(part: Tensor, like: Any) -> Tensor:
    """The whole of a tensor of which this process has ``part``, sharded as ``like`` is; ``part`` where that is whole.

    Every process has to ask for it.
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    layout: dict[str, Any] = {"shape": like.shape, "stride": like.stride(), "run_check": False}
    if part.dtype == torch.bool:  # not every backend gathers bools
        return whole(part.view(torch.uint8), like).view(torch.bool)
    gathered: Tensor = DTensor.from_local(part, like.device_mesh, like.placements, **layout).full_tensor()
    return gathered


def part_of(tensor: Tensor, like: Any) -> Tensor:
    """Inverse of :func:`whole`; nothing is sent."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    placed: Any = distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return placed.to_local()
