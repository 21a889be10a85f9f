"""Many threads with one session, and many sessions with one file, against one thread alone: the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from sift_cli.runtime import kernels, session

THREADS = 4

#: An operator, its weight, its attributes, and more inputs than it remembers, which differ in size, count and rank.
CASES = {
    "conv": (
        "SparseConvRelu",
        (24, 16, 3, 3),
        {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1},
        [(1, 16, 9, 9), (2, 16, 9, 9), (3, 16, 9, 9), (9, 16, 9, 9), (1, 16, 5, 21), (2, 16, 30, 30), (17, 16, 4, 4)],
    ),
    "points": (
        "SparseConvRelu",
        (70, 40, 1, 1),
        {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1},
        [(1, 40, 9, 9), (2, 40, 9, 9), (1, 40, 3, 21), (2, 40, 30, 30), (5, 40, 4, 4), (1, 40, 1, 1)],
    ),
    "linear": (
        "SparseLinearGelu",
        (130, 70),
        {},
        [(70,), (1, 70), (3, 70), (9, 70), (2, 20, 70), (200, 70), (2, 2, 70)],
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, one_node: Callable[..., bytes], tmp_path: Path) -> tuple[Path, list, list]:
    """A file of one node, inputs for it, and the bytes that one thread alone makes of each in a session of its own."""
    op, shape, attributes, inputs = CASES[request.param]
    rng = np.random.default_rng(0)
    kept = rng.random(shape) < 0.3
    parts = {
        "bitmask": np.packbits(kept.reshape(-1), bitorder="little"),
        "values": rng.standard_normal(np.count_nonzero(kept)).astype(np.float32),
    }
    path = tmp_path / "model.onnx"
    path.write_bytes(one_node(op, parts, weight_shape=shape, **attributes))
    xs = [rng.standard_normal(size).astype(np.float32) for size in inputs]
    return path, xs, [session(path, threads=1).run(None, {"X": x})[0].tobytes() for x in xs]


def at_once(work: Callable[[int], Iterator[bool]]) -> list[bool]:
    """What ``work(0)``, ``work(1)`` … yield, each on a thread of its own and none before all have begun."""
    barrier = Barrier(THREADS)

    def begin(thread: int) -> list[bool]:
        barrier.wait()
        return list(work(thread))

    with ThreadPoolExecutor(THREADS) as pool:
        return [right for results in pool.map(begin, range(THREADS)) for right in results]


def test_one_session_run_by_many_threads(case: tuple[Path, list, list]) -> None:
    path, xs, want = case
    shared = session(path, threads=2)

    def work(thread: int) -> Iterator[bool]:
        for index in np.random.default_rng(thread).integers(0, len(xs), 25):
            yield shared.run(None, {"X": xs[index]})[0].tobytes() == want[index]

    assert at_once(work) == [True] * (25 * THREADS)
    assert kernels(shared)[0].runs == 25 * THREADS


def test_many_sessions_on_one_file(case: tuple[Path, list, list]) -> None:
    path, xs, want = case

    def work(thread: int) -> Iterator[bool]:
        for _ in range(3):
            opened = session(path, threads=1 + thread % 3)
            for x, right in zip(xs, want, strict=True):
                yield opened.run(None, {"X": x})[0].tobytes() == right
            yield kernels(opened)[0].runs == len(xs)

    assert at_once(work) == [True] * (3 * (len(xs) + 1) * THREADS)
