"""Small ONNX models from text, and what onnxruntime makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser


def graph(text: str, weights: Mapping[str, np.ndarray], *, opset: int = 13, ir: int = 8) -> onnx.ModelProto:
    """A model from ``(inputs) => (outputs) { nodes }`` and its initializers."""
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]> g {text}')
    _clear_domains(model.graph)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def _clear_domains(graph: onnx.GraphProto) -> None:
    """Leave out those that are "", as every other writer does."""
    for node in graph.node:
        if not node.domain:
            node.ClearField("domain")
        for item in node.attribute:
            _clear_domains(item.g)


def sparse(*shape: int, zeros: float = 0.7, seed: int = 0) -> np.ndarray:
    """Random float32 weights, some of them 0, the first never."""
    random = np.random.default_rng((seed, *shape))
    weight = random.standard_normal(shape).astype(np.float32)
    weight[random.random(shape) < zeros] = 0
    weight.reshape(-1)[0] = 1.5
    return weight


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, 1, *shape)).standard_normal(shape).astype(np.float32)


def run(
    model: onnx.ModelProto | bytes,
    feed: Mapping[str, np.ndarray],
    library: str | None = None,
    *,
    optimized: bool = True,
) -> list[np.ndarray]:
    """Outputs in stock onnxruntime, or with a library of custom operators.

    A source is an oracle when it is not ``optimized``: onnxruntime quantises what a layer with quantised weights reads.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if library is not None:
        options.register_custom_ops_library(library)
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
