"""The report every FLOP counter returns, whatever it counted.

A MAC is one multiply and one add. FLOPs are 2 × MACs, always, and both are always named. *Dense* counts every weight
of a layer, *sparse* only the weights that its mask keeps (or, where there is no mask, that are not zero).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SCHEMA = "sift.flops/1"


@dataclass(frozen=True)
class LayerCount:
    """MACs of one layer for one forward pass of one sample.

    Attributes:
        name: Module path in a torch model, node name in an ONNX graph.
        op: Kind of operator: "conv", "linear", "attention", "matmul", ….
        dense: MACs with every weight counted.
        sparse: MACs with kept weights only.
        weight: Name of the weight tensor, or None for an operator without one (attention products).
    """

    name: str
    op: str
    dense: int
    sparse: int
    weight: str | None = None

    @property
    def density(self) -> float:
        return self.sparse / self.dense if self.dense else 1.0


@dataclass(frozen=True)
class Uncounted:
    """An operator that was met and not counted, and how often: named, so that no cost is silently zero."""

    op: str
    times: int


@dataclass(frozen=True)
class FlopReport:
    """Layers in execution order, and what was not counted.

    Attributes:
        layers: One entry a layer.
        uncounted: Operators met but not counted.
        counter: "fvcore", "dispatch", "onnx" or "plan".
        convention: The convention the numbers follow ("macs" unless another was asked for).
        total: Under a convention that is not made of MACs, its one total (in that convention's unit).
    """

    layers: tuple[LayerCount, ...]
    uncounted: tuple[Uncounted, ...] = ()
    counter: str = ""
    convention: str = "macs"
    total: int | None = None

    @property
    def dense(self) -> int:
        """Total MACs, every weight counted."""
        return sum(layer.dense for layer in self.layers)

    @property
    def sparse(self) -> int:
        """Total MACs, kept weights only."""
        return sum(layer.sparse for layer in self.layers)

    def by_operator(self) -> dict[str, tuple[int, int]]:
        """(dense, sparse) MACs by kind of operator, largest first."""
        dense: Counter[str] = Counter()
        sparse: Counter[str] = Counter()
        for layer in self.layers:
            dense[layer.op] += layer.dense
            sparse[layer.op] += layer.sparse
        return {op: (count, sparse[op]) for op, count in dense.most_common()}

    def to_json(self) -> dict[str, Any]:
        def both(dense: int, sparse: int) -> dict[str, int]:
            return {"dense": dense, "sparse": sparse}

        data: dict[str, Any] = {
            "schema": SCHEMA,
            "counter": self.counter,
            "convention": self.convention,
            "macs": both(self.dense, self.sparse),
            "flops": both(2 * self.dense, 2 * self.sparse),
            "by_layer": [
                {
                    "name": layer.name,
                    "op": layer.op,
                    "macs": both(layer.dense, layer.sparse),
                    "flops": both(2 * layer.dense, 2 * layer.sparse),
                    "density": layer.density,
                    "weight": layer.weight,
                }
                for layer in self.layers
            ],
            "by_operator": {op: {"macs": both(*macs)} for op, macs in self.by_operator().items()},
            "uncounted": [{"op": u.op, "times": u.times} for u in self.uncounted],
        }
        if self.total is not None:
            data["total"] = self.total
        return data


def uncounted_from(counter: Iterable[str] | Counter[str]) -> tuple[Uncounted, ...]:
    """Operators, as met, into a sorted tuple of :class:`Uncounted`."""
    return tuple(Uncounted(op, times) for op, times in sorted(Counter(counter).items()))
