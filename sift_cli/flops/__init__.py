"""Counting the multiply-adds (MACs) of a model, three ways that share no code where they could share a mistake.

``count_module`` counts a torch module, by fvcore's trace or by torch's dispatcher; ``count_onnx`` counts an ONNX graph
by shape inference; ``count_official`` follows the profiler of the Sparse-IFT authors, ``count_paper_gpt`` their formula
for GPT. ``docs/flops.md`` has the conventions. torch and onnx are imported when a name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sift_cli.flops.official import count_official as count_official
    from sift_cli.flops.onnx_counter import count_onnx as count_onnx
    from sift_cli.flops.paper_gpt import count_paper_gpt as count_paper_gpt
    from sift_cli.flops.torch_counter import count_module as count_module
    from sift_cli.flops.torch_counter import cross_check as cross_check

_HOMES = {
    "count_module": "torch_counter",
    "count_official": "official",
    "count_onnx": "onnx_counter",
    "count_paper_gpt": "paper_gpt",
    "cross_check": "torch_counter",
}
__all__ = ["count_module", "count_official", "count_onnx", "count_paper_gpt", "cross_check"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
