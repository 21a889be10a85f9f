"""Models of one sparse node, and the native library they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from sift_cli.errors import RuntimeUnavailable
from sift_cli.runtime.library import library_path


@pytest.fixture(scope="session")
def library() -> str:
    try:
        return library_path()
    except RuntimeUnavailable as error:
        pytest.skip(f"{error.message}; {error.hint}")


def _one_node(
    op: str,
    inputs: dict[str, np.ndarray],
    *,
    constant: Sequence[str] | None = None,
    name: str = "layer",
    **attributes: Any,
) -> bytes:
    """An ONNX file of one node of the domain "sift": X, then ``inputs``, constant unless left out of ``constant``."""
    from onnx import helper, numpy_helper

    fixed = inputs if constant is None else {key: inputs[key] for key in constant}
    fed = ["X", *(key for key in inputs if key not in fixed)]

    def value_info(key: str) -> Any:
        array = inputs.get(key)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32) if array is None else array.dtype)
        return helper.make_tensor_value_info(key, kind, None)

    node = helper.make_node(op, ["X", *inputs], ["Y"], domain="sift", name=name, **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [value_info(key) for key in fed],
        [value_info("Y")],
        [numpy_helper.from_array(array, key) for key, array in fixed.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("sift", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@pytest.fixture(scope="session")
def one_node(library: str) -> Callable[..., bytes]:
    """:func:`_one_node`; whoever asks for it needs the library."""
    return _one_node
