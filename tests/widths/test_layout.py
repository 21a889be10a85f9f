from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sift_cli.widths import trace_widths


class Net(nn.Module):
    """A convolution whose 24 channels go through ``what``, and a layer that reads all that comes out."""

    def __init__(self, what: Any, reads: int) -> None:
        super().__init__()
        self.what = what
        self.make, self.read = nn.Conv2d(3, 24, 1), nn.Linear(reads, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.what(self.make(x)))


def thirds(x: Tensor) -> Tensor:
    a, b, c = x.mean((2, 3)).chunk(3, 1)
    return a * b + c


def halves(x: Tensor) -> Tensor:
    x = x.mean((2, 3))
    return x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :]


def heads(x: Tensor) -> Tensor:
    q, k, v = x.flatten(2).unflatten(1, (3, 4, -1)).unbind(1)
    return (v @ (q.transpose(2, 3) @ k).softmax(-1)).mean(3).flatten(1)


def shuffled(x: Tensor) -> Tensor:
    x = x.mean((2, 3))
    return x + x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1)


#: What the net does, inputs of its last layer, and the equal parts of the channels and of those inputs.
CASES: dict[str, tuple[Any, int, int | None, int | None]] = {
    "one after the other": (lambda x: x.mean((2, 3)), 24, 1, 1),
    "channels outside positions": (lambda x: x.flatten(1), 24 * 6, 1, 1),
    "positions outside channels": (lambda x: x.permute(0, 2, 3, 1).flatten(1), 24 * 6, 1, 6),
    "thirds": (thirds, 8, 3, 1),
    "halves by slices": (halves, 12, 2, 1),
    "concatenated": (lambda x: torch.cat([x, -x], 1).mean((2, 3)), 48, 1, 2),
    "heads": (heads, 8, 12, 4),
    "shuffled": (shuffled, 24, None, None),
    "groups of a norm": (lambda x: torch.group_norm(x, 8).mean((2, 3)), 24, 8, 8),
}


@pytest.mark.parametrize("case", CASES)
def test_equal_parts(case: str) -> None:
    what, reads, made, read = CASES[case]
    graph = trace_widths(Net(what, reads).eval(), (torch.zeros(1, 3, 2, 3),))
    parts = {(axis.tensor, axis.axis): group.parts for group in graph.groups for axis in group.axes if group.scales}
    assert parts["make.weight", 0] == made
    assert parts["read.weight", 1] == read
