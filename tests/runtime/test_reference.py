"""The numpy meaning of the ops, against torch in double precision and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from sift_cli.runtime.reference import decode_bitmask, sparse_conv, sparse_linear


def test_decode_reads_the_least_significant_bit_first() -> None:
    bitmask, values = np.array([0b0000_0110, 0b1], np.uint8), np.array([1.5, 0.0, -2.0], np.float32)
    weight, kept = decode_bitmask(bitmask, values, (3, 3))
    assert weight.tolist() == [[0, 1.5, 0], [0, 0, 0], [0, 0, -2.0]]
    assert kept.tolist() == [[False, True, True], [False, False, False], [False, False, True]]


@pytest.mark.parametrize(
    ("bitmask", "values"),
    [([1], 1), ([1, 0, 0], 1), ([1, 0b10], 2), ([3, 0], 1), ([1, 0], 2)],
    ids=["byte missing", "byte too many", "bit past the end", "value missing", "value too many"],
)
def test_decode_refuses_what_disagrees(bitmask: list[int], values: int) -> None:
    with pytest.raises(ValueError, match=r"bitmask|bytes"):
        decode_bitmask(np.array(bitmask, np.uint8), np.ones(values, np.float32), (3, 3))


@pytest.mark.parametrize(
    ("x", "w", "strides", "pads", "dilations", "group"),
    [
        ((2, 3, 7, 9), (4, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        ((1, 4, 9, 8), (6, 2, 3, 2), (2, 3), (0, 0, 0, 0), (2, 1), 2),
        ((2, 5, 6, 6), (5, 1, 3, 3), (2, 1), (1, 2, 1, 2), (1, 2), 5),
        ((1, 2, 4, 4), (3, 2, 5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 1),
    ],
)
def test_sparse_conv_is_torchs_convolution_of_the_masked_weight(x, w, strides, pads, dilations, group) -> None:
    import torch

    rng = np.random.default_rng(0)
    image, bias = rng.standard_normal(x), rng.standard_normal(w[0])
    kept = rng.random(w) < 0.4
    weight = rng.standard_normal(w) * kept
    top, left, bottom, right = pads
    assert (top, left) == (bottom, right)  # torch's conv2d knows no others
    want = torch.nn.functional.conv2d(
        *(torch.from_numpy(a) for a in (image, weight, bias)), strides, (top, left), dilations, group
    )
    got = sparse_conv(image, weight, kept, bias, strides=strides, pads=pads, dilations=dilations, group=group)
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-12)


def test_sparse_linear_is_a_matrix_product() -> None:
    rng = np.random.default_rng(0)
    x, bias, kept = rng.standard_normal((2, 3, 5)), rng.standard_normal(4), rng.random((4, 5)) < 0.5
    weight = rng.standard_normal((4, 5)) * kept
    np.testing.assert_allclose(sparse_linear(x, weight, kept, bias), x @ weight.T + bias, rtol=0, atol=1e-13)


def test_a_masked_weight_does_not_touch_an_infinite_input() -> None:
    x = np.array([[np.inf, 1.0]])
    kept = np.array([[False, True], [True, True]])
    assert sparse_linear(x, np.array([[0.0, 2.0], [0.0, 2.0]]), kept)[0, 0] == 2.0
    assert np.isnan(sparse_linear(x, np.array([[0.0, 2.0], [0.0, 2.0]]), kept)[0, 1])  # a kept zero does
