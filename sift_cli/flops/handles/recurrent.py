"""Recurrent layers: every weight matrix meets every step of every sample once."""

from __future__ import annotations

import math

from sift_cli.flops.handles._values import Handle, Product, Values, items, shape


def _layers(inputs: Values, outputs: Values) -> list[Product]:
    steps = math.prod(shape(inputs[0])[:-1])
    matrices = [value for value in items(inputs[2]) if len(shape(value)) == 2]
    return [Product("matmul", steps * math.prod(shape(matrix)), (matrix,)) for matrix in matrices]


def _cell(inputs: Values, outputs: Values) -> list[Product]:
    samples = math.prod(shape(inputs[0])[:-1])
    return [Product("matmul", samples * math.prod(shape(matrix)), (matrix,)) for matrix in inputs[2:4]]


HANDLES: dict[str, Handle] = {
    **dict.fromkeys(("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu"), _layers),
    **dict.fromkeys(("aten::lstm_cell", "aten::gru_cell", "aten::rnn_tanh_cell", "aten::rnn_relu_cell"), _cell),
}
