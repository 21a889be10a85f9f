"""The best model so far."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sift_cli.core.masks import MaskSet
from sift_cli.surgery import PackedMask, attach_masks, carry, packed_masks_of

#: Share of the time that goes into writing artifacts while there are more steps to come.
_SHARE = 0.05


class Best:
    """Keeps a copy of the best model, and publishes it from time to time.

    An artifact is measured when it is written, which takes as long as many steps of a small model. So not every
    improvement becomes one; the first does, which shows early that it can, and the best of all does at the end.

    Args:
        like: A model of the same shapes; it is copied.
        publish: Writes the artifact.
    """

    def __init__(self, like: nn.Module, publish: Callable[[nn.Module], object]) -> None:
        self._module, self._publish = copy.deepcopy(like), publish
        self.score = -math.inf
        self._new, self._next = False, -math.inf

    def offer(self, module: nn.Module, score: float) -> None:
        """Keep ``module`` if it is better than what is kept."""
        if score > self.score:
            self.score, self._new = score, True
            masks = {name: _copied(mask) for name, mask in packed_masks_of(module).items()}
            self._put({name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}, masks)

    def publish(self, *, last: bool = False) -> None:
        """Write the artifact if there is a better one than was written, and it is time, or the last time."""
        began = time.monotonic()
        if self._new and (last or began >= self._next):
            self._publish(self._module)
            now = time.monotonic()
            self._new, self._next = False, now + (now - began) / _SHARE

    def state_dict(self) -> dict[str, Any]:
        masks = {name: (m.bits, m.shape, m.pattern, m.output_axis) for name, m in packed_masks_of(self._module).items()}
        return {"score": self.score, "model": self._module.state_dict(), "masks": masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.score, self._new = float(state["score"]), True
        self._put(state["model"], {name: PackedMask(*mask) for name, mask in state["masks"].items()})

    def _put(self, tensors: Mapping[str, torch.Tensor], masks: Mapping[str, PackedMask]) -> None:
        self._module.load_state_dict(tensors)
        attach_masks(self._module, MaskSet())
        carry(self._module, masks)


def _copied(mask: PackedMask) -> PackedMask:
    return replace(mask, bits=mask.bits.cpu().clone())
