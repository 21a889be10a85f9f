"""Comparing the speed of ways to run a model, on a machine that does other things too.

What changes between two minutes of a computer is often more than what is to be measured: its clock, its heat, its other
users. So the peers take turns, round after round, each round begun by another of them, and what is reported is the
median over the rounds, with a spread, and the median of the *ratios within a round*: what slows a whole round slows
both sides of its ratio.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sift_cli.runtime.layers import NodeTime
from sift_cli.runtime.machine import Machine

SCHEMA = "sift.bench/1"
#: Timed runs of a turn fill at least this many seconds, and are at least so many, …
_TURN, _RUNS = 0.03, 3
#: … unless one run takes so long that it is a turn.
_LONG = 0.1
#: Seconds of runs before the timed ones: the threads of the peer before may spin for a while, the caches are its.
_SETTLE = 0.003
_LEAST_ROUNDS = 5
#: Warm-up ends when a turn is not this much faster than the fastest before it; or after so many turns.
_STABLE, _MOST_WARM_UPS = 0.95, 12


class Peer(Protocol):
    """One way to run one model on inputs of its own.

    Attributes:
        name: What the user calls it: "dense", "deepsparse", a file.
        engine: What runs it, with its version.
        samples: Images or sequences in one run.
        difference: How far its outputs are from the first peer's, as a part of the largest; None where they need not be
            the same.
    """

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> str: ...

    @property
    def samples(self) -> int: ...

    @property
    def difference(self) -> float | None: ...

    def run(self, runs: int) -> Sequence[float]:
        """Seconds of each of ``runs`` runs, one after the other."""


@dataclass(frozen=True)
class Spread:
    """The middle of some measurements, and what one in ten lies below and above."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(*(float(value) for value in np.quantile(values, (0.5, 0.1, 0.9))))

    def to_json(self) -> dict[str, float]:
        return {"median": self.median, "p10": self.p10, "p90": self.p90}


@dataclass(frozen=True)
class Measured:
    """One peer's times.

    Attributes:
        name, engine, samples, difference: As of the :class:`Peer`.
        seconds: Of one run, over the rounds; a round's figure is the median of its runs.
        ratio: Seconds of this peer / seconds of the first one in the same round: how many times as fast the first is.
            None for the first peer itself.
        runs: Timed runs in all.
    """

    name: str
    engine: str
    samples: int
    difference: float | None
    seconds: Spread
    ratio: Spread | None
    runs: int

    @property
    def per_second(self) -> float:
        """Images or sequences a second, at the median."""
        return self.samples / self.seconds.median

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "engine": self.engine,
            "samples": self.samples,
            "difference": self.difference,
            "seconds": self.seconds.to_json(),
            "per_second": self.per_second,
            "ratio": self.ratio.to_json() if self.ratio else None,
            "runs": self.runs,
        }


def compare(
    peers: Sequence[Peer], *, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[tuple[Measured, ...], int]:
    """Let ``peers`` take turns, and return what each of them took, and the rounds there were.

    Args:
        peers: The first is what the others are compared with.
        seconds: After so many seconds of rounds no new one begins; there are at least five, whatever they take.
        clock: Says when that is.
    """
    paces = [_warm_up(peer) for peer in peers]
    turns: list[list[float]] = [[] for _ in peers]
    end = clock() + seconds
    rounds = 0
    while rounds < _LEAST_ROUNDS or clock() < end:
        for step in range(len(peers)):
            at = (rounds + step) % len(peers)
            turns[at].append(statistics.median(paces[at].timed(peers[at])))
        rounds += 1
    measured = (
        Measured(
            peer.name,
            peer.engine,
            peer.samples,
            peer.difference,
            Spread.of(own),
            Spread.of([b / a for a, b in zip(turns[0], own, strict=True)]) if own is not turns[0] else None,
            rounds * pace.runs,
        )
        for peer, own, pace in zip(peers, turns, paces, strict=True)
    )
    return tuple(measured), rounds


@dataclass(frozen=True)
class Comparison:
    """Peers at one number of threads.

    Attributes:
        threads: Threads within an operator; None for one a core.
        rounds: Turns of each peer.
        peers: The first is the one that the others' ratios refer to.
        nodes: Where its time goes; None where nobody asked.
    """

    threads: int | None
    rounds: int
    peers: tuple[Measured, ...]
    nodes: tuple[NodeTime, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "rounds": self.rounds,
            "peers": [peer.to_json() for peer in self.peers],
            "layers": None if self.nodes is None else [node.to_json() for node in self.nodes],
        }


@dataclass(frozen=True)
class BenchReport:
    """Comparisons of one model with its peers on one machine."""

    model: str
    batch: int
    machine: Machine
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model": self.model,
            "batch": self.batch,
            "machine": self.machine.to_json(),
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }


@dataclass(frozen=True)
class _Pace:
    """Runs of one turn of a peer: the first few are for it to settle, the others are timed."""

    settling: int
    runs: int

    @classmethod
    def at(cls, seconds: float) -> _Pace:
        """For a peer that takes ``seconds`` a run."""
        seconds = max(seconds, 1e-6)
        if seconds >= _LONG:
            return cls(0, 1)
        return cls(math.ceil(_SETTLE / seconds), max(_RUNS, math.ceil(_TURN / seconds)))

    def timed(self, peer: Peer) -> Sequence[float]:
        return peer.run(self.settling + self.runs)[self.settling :]


def _warm_up(peer: Peer) -> _Pace:
    """Run ``peer`` until it gets no faster; its pace from then on.

    A first run is special: weights are repacked, buffers are made, pages are touched for the first time.
    """
    best = statistics.median(peer.run(1))
    for _ in range(_MOST_WARM_UPS):
        latest = statistics.median(_Pace.at(best).timed(peer))
        if latest > _STABLE * best:
            break
        best = latest
    return _Pace.at(min(best, latest))
