"""What ``sift analyze`` says: the layers of each checkpoint, the model's means, what changed from one to the next."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sift_cli.analysis.graph import Graph
from sift_cli.analysis.overlap import Overlap

SCHEMA = "sift.analysis/1"


@dataclass(frozen=True)
class LayerAnalysis:
    """One layer of one checkpoint.

    Attributes:
        name: Of its weight tensor.
        shape: Of its weight tensor.
        graph: The graph of its mask and weights.
        subgraphs: The K_d that the iterative means are taken over.
        previous, first: Its mask beside that of the previous and of the first checkpoint; None in the first.
    """

    name: str
    shape: tuple[int, ...]
    graph: Graph
    subgraphs: tuple[Graph, ...]
    previous: Overlap | None = None
    first: Overlap | None = None

    @property
    def sparsity(self) -> float:
        return 1 - self.graph.edges / math.prod(self.shape)

    @property
    def imdb(self) -> float | None:
        """Iterative mean difference of bound: Δr in the mean over the subgraphs; None without any."""
        return _mean(part.ramanujan_gap for part in self.subgraphs)

    @property
    def relative_imdb(self) -> float | None:
        """Δr as a share of the bound, in the mean over the subgraphs."""
        return _mean(part.relative_gap for part in self.subgraphs)

    @property
    def imsg(self) -> float | None:
        """Iterative mean of the weighted spectral gap: λ in the mean over the subgraphs; None without any."""
        return _mean(part.weighted_gap for part in self.subgraphs)

    def to_json(self) -> dict[str, Any]:
        graph = self.graph
        return {
            "name": self.name,
            "shape": list(self.shape),
            "sparsity": self.sparsity,
            "nodes": {"left": graph.left, "right": graph.right},
            "edges": graph.edges,
            "mean_degree": {"left": graph.left_degree, "right": graph.right_degree},
            "singular_values": _listed(graph.singular),
            "weighted_singular_values": _listed(graph.weighted),
            "bound": graph.bound,
            **{name: value(self) for name, value in METRICS.items()},
            "subgraphs": len(self.subgraphs),
            **_overlaps(self.previous, self.first),
        }


#: The metrics of a layer, of which the mean over the layers is the model's.
METRICS: dict[str, Callable[[LayerAnalysis], float | None]] = {
    "ramanujan_gap": lambda layer: layer.graph.ramanujan_gap,
    "relative_ramanujan_gap": lambda layer: layer.graph.relative_gap,
    "weighted_gap": lambda layer: layer.graph.weighted_gap,
    "imdb": lambda layer: layer.imdb,
    "relative_imdb": lambda layer: layer.relative_imdb,
    "imsg": lambda layer: layer.imsg,
}


@dataclass(frozen=True)
class CheckpointAnalysis:
    """One checkpoint: its sparse layers, in the file's order."""

    path: Path
    layers: tuple[LayerAnalysis, ...]

    @property
    def sparsity(self) -> float:
        """Share of masked weights over all sparse layers."""
        numel = sum(math.prod(layer.shape) for layer in self.layers)
        return 1 - sum(layer.graph.edges for layer in self.layers) / numel

    @property
    def metrics(self) -> dict[str, float | None]:
        """Each of :data:`METRICS` in the mean over the layers that have it, every layer counting alike; None where none
        has."""
        return {name: _mean(value(layer) for layer in self.layers) for name, value in METRICS.items()}

    @property
    def previous(self) -> Overlap | None:
        """All masks beside those of the previous checkpoint; None in the first."""
        return _total(layer.previous for layer in self.layers)

    @property
    def first(self) -> Overlap | None:
        """All masks beside those of the first checkpoint; None in the first."""
        return _total(layer.first for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        defined = {name: sum(value(layer) is not None for layer in self.layers) for name, value in METRICS.items()}
        return {
            "path": str(self.path),
            "sparsity": self.sparsity,
            **self.metrics,
            "layers_with": defined,
            **_overlaps(self.previous, self.first),
            "layers": [layer.to_json() for layer in self.layers],
        }


@dataclass(frozen=True)
class AnalysisReport:
    """The checkpoints in the order they were given; all have the same layers."""

    checkpoints: tuple[CheckpointAnalysis, ...]

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "checkpoints": [checkpoint.to_json() for checkpoint in self.checkpoints]}


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are defined; None without any."""
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def _total(overlaps: Iterable[Overlap | None]) -> Overlap | None:
    known = [overlap for overlap in overlaps if overlap is not None]
    return functools.reduce(operator.add, known) if known else None


def _listed(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else list(pair)


def _overlaps(previous: Overlap | None, first: Overlap | None) -> dict[str, Any]:
    return {
        "overlap": {
            "previous": None if previous is None else previous.to_json(),
            "first": None if first is None else first.to_json(),
        }
    }
