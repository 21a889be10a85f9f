"""Inputs for models that say little of what they take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from graphs import graph, normal
from onnxruntime import InferenceSession

from sift_cli.errors import ExportError
from sift_cli.runtime import session
from sift_cli.verify.feeds import Feed, feeds


def opened(text: str, **weights: np.ndarray) -> InferenceSession:
    return session(graph(text, weights).SerializeToString(), library=False)


def shapes(found: list[Feed]) -> list[dict[str, tuple[int, ...]]]:
    return [{name: array.shape for name, array in feed.items()} for feed in found]


def test_open_axes_of_one_name_have_one_size() -> None:
    run = opened(
        "(float[N, L] x, float[N, M] y, float[L, M] z) => (float[A, B] o) { p = MatMul (x, z) o = Add (p, y) }"
    )
    assert shapes(feeds(run)) == [{"x": (n, 64), "y": (n, 64), "z": (64, 64)} for n in (1, 3)]


def test_a_batch_that_is_fixed_inside() -> None:
    run = opened("(float[N, 4] x) => (float[A, B] y) { y = Reshape (x, s) }", s=np.array([1, 4]))
    assert shapes(feeds(run)) == [{"x": (1, 4)}]


def test_a_size_is_tried_until_one_fits() -> None:
    run = opened("(float[N, 1, H, W] x) => (float[A, B, C, D] y) { y = Conv (x, w) }", w=normal(1, 1, 100, 100))
    assert shapes(feeds(run)) == [{"x": (n, 1, 224, 224)} for n in (1, 3)]


def test_integers_stay_below_each_table() -> None:
    run = opened(
        "(int64[N, L] words, int64[N, L] kinds) => (float[A, B, C] y)"
        " { a = Gather (t, words) b = Gather (u, kinds) y = Add (a, b) }",
        t=normal(300, 8), u=normal(2, 8),
    )  # fmt: skip
    for feed in feeds(run):
        assert 2 < feed["words"].max() < 256
        assert set(feed["kinds"].flat) == {0, 1}


def test_inputs_that_make_infinities_are_not_used() -> None:
    run = opened(
        "(float[N, 4] x, int64[N, 4] mask) => (float[A, B] y) { m = Cast <to = 1> (mask) e = Exp (m) y = Mul (x, e) }"
    )
    for feed in feeds(run):
        assert np.isfinite(np.exp(feed["mask"].astype(np.float32))).all()
        assert feed["mask"].min() < feed["mask"].max()


def test_given_inputs_are_taken() -> None:
    run = opened("(float[N, L] x, bool[N, L] z) => (float[A, B] y) { m = Cast <to = 1> (z) y = Mul (x, m) }")
    x = normal(7, 9)
    (feed,) = feeds(run, arrays={"x": x}, shape=(7, 9))
    assert feed["x"] is x
    assert feed["z"].shape == (7, 9)
    assert feed["z"].dtype == np.bool_


@pytest.mark.parametrize(
    ("text", "given", "sentence"),
    [
        ("(float[N, 4] x) => (float[A, B] y) { y = Relu (x) }", {"z": normal(1, 4)}, "has no input 'z'"),
        (
            "(string[N, 4] x) => (int64[A] y) { y = Shape (x) }",
            {},
            r"no random values for input 'x' of type tensor\(string\)",
        ),
        ("(float[N, 4] x) => (float[A, B] y) { z = Sub (x, x) y = Log (z) }", {}, "its outputs are not finite$"),
        ("(float[N, 4] x) => (float[A, B] y) { y = Reshape (x, s) }", {}, "The input tensor cannot be reshaped"),
    ],
)
def test_what_cannot_run_is_one_sentence(text: str, given: Mapping[str, np.ndarray], sentence: str) -> None:
    run = opened(text, s=np.array([5, 7]))
    with pytest.raises(ExportError, match=sentence) as caught:
        feeds(run, arrays=given)
    assert caught.value.hint
    assert "\n" not in caught.value.message
