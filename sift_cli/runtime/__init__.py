"""The native library's Python side: find it, open sessions with it, say which kernel ran, and the meaning of its ops.

Names are loaded when they are first used; onnxruntime is imported by :func:`session` and not before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sift_cli.runtime.library import available_isas, library_path
    from sift_cli.runtime.reference import decode_bitmask, epilogue, max_pool, sparse_conv, sparse_linear
    from sift_cli.runtime.sessions import KernelReport, kernels, random_inputs, session

_HOME = {
    "available_isas": "library",
    "library_path": "library",
    "decode_bitmask": "reference",
    "epilogue": "reference",
    "max_pool": "reference",
    "sparse_conv": "reference",
    "sparse_linear": "reference",
    "KernelReport": "sessions",
    "kernels": "sessions",
    "random_inputs": "sessions",
    "session": "sessions",
}

__all__ = [
    "KernelReport",
    "available_isas",
    "decode_bitmask",
    "epilogue",
    "kernels",
    "library_path",
    "max_pool",
    "random_inputs",
    "session",
    "sparse_conv",
    "sparse_linear",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
