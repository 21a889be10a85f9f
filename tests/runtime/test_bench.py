"""Taking turns: who runs when and how often, and the arithmetic of what is reported. No time is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from sift_cli.runtime import session
from sift_cli.runtime.bench import Spread, compare
from sift_cli.runtime.peers import difference, same_inputs


class Fake:
    """A peer whose runs take what it is told: ``times(call)`` seconds a run in its call number ``call``."""

    engine, samples, difference = "none", 4, None

    def __init__(self, name: str, times: Callable[[int], float], log: list[tuple[str, int]], now: list[float]) -> None:
        self.name, self._times, self._log, self._now = name, times, log, now
        self._calls = 0

    def run(self, runs: int) -> list[float]:
        self._log.append((self.name, runs))
        seconds = self._times(self._calls)
        self._calls += 1
        self._now[0] += seconds * runs
        return [seconds] * runs


def fakes(*times: Callable[[int], float]) -> tuple[list[Fake], list[tuple[str, int]], Callable[[], float]]:
    """Peers "a", "b", …, what they will have run, and a clock that only they advance."""
    log: list[tuple[str, int]] = []
    now = [0.0]
    return [Fake(name, one, log, now) for name, one in zip("abc", times, strict=False)], log, lambda: now[0]


def rounds_of(*seconds: float) -> Callable[[int], float]:
    """Of a peer that takes the first of ``seconds`` in both turns of its warm-up, and then one of them a round."""
    return lambda call: (seconds[0], seconds[0], *seconds)[call]


def test_peers_take_turns_and_each_begins_a_round() -> None:
    peers, log, clock = fakes(*[lambda call: 0.5] * 3)
    compare(peers, seconds=0, clock=clock)
    assert [name for name, _ in log[:6]] == ["a", "a", "b", "b", "c", "c"]  # warming up
    assert "".join(name for name, _ in log[6:]) == "abcbcacababcbca"


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 5), (4.9, 5), (7, 7), (7.1, 8)])
def test_rounds_fill_the_time_and_are_five_at_least(seconds: float, rounds: int) -> None:
    peers, log, clock = fakes(lambda call: 0.25, lambda call: 0.75)
    measured, counted = compare(peers, seconds=seconds, clock=clock)
    assert counted == rounds
    assert len(log) == 4 + 2 * rounds
    assert [peer.runs for peer in measured] == [rounds, rounds]


def test_ratios_are_taken_within_a_round() -> None:
    peers, _, clock = fakes(rounds_of(1, 2, 4, 8, 16), rounds_of(3, 2, 40, 1, 4))
    (first, second), _ = compare(peers, seconds=0, clock=clock)
    assert first.ratio is None
    assert second.ratio is not None
    # 3, 1, 10, 1/8, 1/4; the ratio of the medians would be 3/4.
    assert second.ratio.median == 1
    assert second.ratio.p10 == pytest.approx(0.125 + 0.4 * 0.125, abs=1e-15)
    assert second.ratio.p90 == pytest.approx(3 + 0.6 * 7, abs=1e-15)
    assert (first.seconds.median, second.seconds.median) == (4, 3)
    assert first.per_second == 1  # 4 samples in 4 seconds


def test_a_spread_is_the_median_and_the_tenths() -> None:
    assert Spread.of([10, 0, 5, 1, 2, 3, 4, 6, 7, 8, 9]) == Spread(5, 1, 9)
    assert Spread.of([7]) == Spread(7, 7, 7)
    assert Spread.of([1, 2]).median == 1.5


def test_warming_up_ends_when_a_peer_gets_no_faster() -> None:
    times = [0.8, 0.4, 0.2, 0.2] + [0.2] * 5
    peers, log, clock = fakes(times.__getitem__)
    (only,), _ = compare(peers, seconds=0, clock=clock)
    assert len(log) == 4 + 5
    assert only.seconds == Spread(0.2, 0.2, 0.2)


def test_warming_up_ends_for_a_peer_that_never_settles() -> None:
    peers, log, clock = fakes(lambda call: 0.9**call)
    compare(peers, seconds=0, clock=clock)
    assert len(log) == 1 + 12 + 5


def test_short_runs_fill_a_turn_and_the_first_of_them_do_not_count() -> None:
    class Faster(Fake):
        """Each run of a call takes a hundredth less than the one before."""

        def run(self, runs: int) -> list[float]:
            return [seconds * (1 - at / 100) for at, seconds in enumerate(super().run(runs))]

    log: list[tuple[str, int]] = []
    peer = Faster("a", lambda call: 0.004, log, [0.0])
    (only,), rounds = compare([peer], seconds=0, clock=lambda: 0.0)
    # 3 ms of settling are one run of 4 ms, 30 ms of timed runs are eight: those numbered 1 … 8.
    assert log == [("a", 1), *[("a", 9)] * 6]
    assert only.runs == 8 * rounds
    assert only.seconds.median == pytest.approx(0.004 * (1 - 4.5 / 100), rel=1e-12)


def test_a_run_of_no_time_at_all_ends_too() -> None:
    peers, _, clock = fakes(lambda call: 0.0)
    assert compare(peers, seconds=0, clock=clock)[1] == 5


def opened(*inputs: tuple[str, int, list[str | int]]) -> onnxruntime.InferenceSession:
    """A session of a model with ``inputs`` of these names, types and shapes."""
    infos = [helper.make_tensor_value_info(*one) for one in inputs]
    nodes = [helper.make_node("Identity", [one.name], [f"{one.name}_out"]) for one in infos]
    outs = [helper.make_tensor_value_info(f"{name}_out", kind, shape) for name, kind, shape in inputs]
    graph = helper.make_graph(nodes, "g", infos, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return session(model.SerializeToString(), library=False)


def test_another_model_gets_the_same_inputs_where_they_fit() -> None:
    x, ids = np.full((3, 4), 7, np.float32), np.full((3, 2), 5, np.int64)
    feed = {"x": x, "ids": ids}
    float_, int_ = TensorProto.FLOAT, TensorProto.INT64
    one = same_inputs(feed, opened(("ids", int_, ["b", "n"]), ("other", float_, ["b", 4]), ("x", float_, ["b", 4])), 0)
    assert list(one) == ["ids", "other", "x"]
    np.testing.assert_array_equal(one["ids"], ids)
    np.testing.assert_array_equal(one["x"], x)
    assert one["other"].shape == (3, 4)
    assert len(np.unique(one["other"])) == 12
    wide, typed = (("x", float_, ["b", 6]), ("ids", float_, ["b", 2]))
    other = same_inputs(feed, opened(wide, typed), 0)
    assert {name: array.shape for name, array in other.items()} == {"x": (3, 6), "ids": (3, 2)}
    assert other["ids"].dtype == np.float32
    np.testing.assert_array_equal(same_inputs({"x": x}, opened(("image", float_, ["b", "w"])), 0)["image"], x)
    assert not np.array_equal(same_inputs(feed, opened(("image", float_, ["b", 4])), 0)["image"], x)


def outputs(*values: float) -> Iterator[np.ndarray]:
    return (np.array([value, 1.0], np.float32) for value in values)


def test_a_difference_is_a_part_of_the_largest_value_expected() -> None:
    expected = [*outputs(4, -8)]
    assert difference([*outputs(4, -8)], expected) == 0
    assert difference([*outputs(4, -7)], expected) == 1 / 8
    assert difference([*outputs(5, -7)], expected) == 1 / 4
    assert difference(expected, None) is None
    assert difference(expected[:1], expected) == float("inf")
    assert difference([np.zeros((2, 1)), expected[1]], expected) == float("inf")
    assert np.isnan(difference([*outputs(4, float("nan"))], expected))
    assert difference([np.array([3], np.uint8)], [np.array([4], np.uint8)]) == 1 / 4
    assert difference([np.zeros(0)], [np.zeros(0)]) == 0
    assert difference([np.ones(1)], [np.zeros(1)]) == 1
