"""onnxruntime as a peer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sift_cli.errors import ModelError
from sift_cli.runtime.arrays import fits
from sift_cli.runtime.sessions import kernels, random_inputs

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntime:
    """A session and its inputs. It is a :class:`~sift_cli.runtime.bench.Peer`.

    Args:
        name: What the user calls it.
        opened: The session.
        feed: Its inputs by name.
        expected: What the outputs should be, where that is known.

    Attributes:
        outputs: Arrays of one run, in the order of the model's outputs.
        difference: Between them and what was expected, see :func:`difference`.

    Raises:
        ModelError: The model does not run on these inputs.
    """

    def __init__(
        self,
        name: str,
        opened: onnxruntime.InferenceSession,
        feed: Mapping[str, np.ndarray],
        expected: Sequence[np.ndarray] | None = None,
    ) -> None:
        import onnxruntime

        self.name = name
        self._opened = opened
        self._feed = dict(feed)
        self.samples = samples(feed)
        try:
            self.outputs: list[np.ndarray] = opened.run(None, self._feed)
        except Exception as error:  # onnxruntime's own exceptions share no base
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise ModelError(f"{name} does not run on these inputs: {str(error).splitlines()[0]}") from None
        self.difference = difference(self.outputs, expected)
        sift = "sift, " if kernels(opened) else ""
        self.engine = f"{sift}onnxruntime {onnxruntime.__version__}"

    def run(self, runs: int) -> Sequence[float]:
        seconds = []
        for _ in range(runs):
            begin = time.perf_counter()
            self._opened.run(None, self._feed)
            seconds.append(time.perf_counter() - begin)
        return seconds


def difference(got: Sequence[np.ndarray], expected: Sequence[np.ndarray] | None) -> float | None:
    """The largest difference of any output from what was ``expected``, as a part of the largest value expected of it;
    infinite where a shape differs, None where nothing was expected."""
    if expected is None:
        return None
    if [array.shape for array in got] != [array.shape for array in expected]:
        return float("inf")
    parts = [0.0]
    for one, other in zip(got, expected, strict=True):
        exact = other.astype(np.float64)
        with np.errstate(invalid="ignore"):
            parts.append(np.abs(one - exact).max(initial=0) / (np.abs(exact).max(initial=0) or 1))
    return float(np.max(parts))


def samples(feed: Mapping[str, np.ndarray]) -> int:
    """Images or sequences in one run: the first dimension of the first input."""
    first = next(iter(feed.values()), np.zeros(()))
    return first.shape[0] if first.ndim else 1


def same_inputs(
    feed: Mapping[str, np.ndarray], opened: onnxruntime.InferenceSession, seed: int
) -> dict[str, np.ndarray]:
    """Inputs for ``opened``: those of ``feed`` that it takes, by name or as its only one, and random ones elsewhere."""
    drawn = random_inputs(opened, batch=samples(feed), seed=seed)
    single = next(iter(feed.values())) if len(feed) == len(drawn) == 1 else None
    for node in opened.get_inputs():
        given = feed.get(node.name, single)
        if given is not None and given.dtype == drawn[node.name].dtype and fits(given.shape, node.shape):
            drawn[node.name] = given
    return drawn
