"""sift: sparse models at the compute of dense ones.

>>> import sift_cli
>>> sift_cli.transform("resnet18.pt", "r18w90.safetensors", kind="wide", sparsity="0.9")
>>> model = sift_cli.load("r18w90.safetensors")       # an nn.Module, masked weights exactly 0
>>> sift_cli.masks(model)["layer1.0.conv1.weight"]    # a bool tensor
>>> sift_cli.sparsify(model, optimizer, total_steps=10_000)    # and train it in any loop: RigL
>>> session = sift_cli.session("r18w90.onnx")         # onnxruntime with sift's sparse kernels

Names are imported when they are first used, so that ``import sift_cli`` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sift_cli.api import analyze as analyze
    from sift_cli.api import check as check
    from sift_cli.api import convert as convert
    from sift_cli.api import densify as densify
    from sift_cli.api import diff as diff
    from sift_cli.api import export as export
    from sift_cli.api import flops as flops
    from sift_cli.api import inspect as inspect
    from sift_cli.api import load as load
    from sift_cli.api import plan as plan
    from sift_cli.api import save as save
    from sift_cli.api import transform as transform
    from sift_cli.errors import SiftError as SiftError
    from sift_cli.runtime import library_path as library_path
    from sift_cli.runtime import session as session
    from sift_cli.surgery import apply_masks as apply_masks
    from sift_cli.surgery import masks_of as masks
    from sift_cli.training import Sparsifier as Sparsifier
    from sift_cli.training import sparsify as sparsify
    from sift_cli.training.config import SparsityConfig as SparsityConfig

_HOMES = {
    "SiftError": ("errors", "SiftError"),
    "Sparsifier": ("training", "Sparsifier"),
    "SparsityConfig": ("training.config", "SparsityConfig"),
    "analyze": ("api", "analyze"),
    "apply_masks": ("surgery", "apply_masks"),
    "check": ("api", "check"),
    "convert": ("api", "convert"),
    "densify": ("api", "densify"),
    "diff": ("api", "diff"),
    "export": ("api", "export"),
    "flops": ("api", "flops"),
    "inspect": ("api", "inspect"),
    "library_path": ("runtime", "library_path"),
    "load": ("api", "load"),
    "masks": ("surgery", "masks_of"),
    "plan": ("api", "plan"),
    "save": ("api", "save"),
    "session": ("runtime", "session"),
    "sparsify": ("training", "sparsify"),
    "transform": ("api", "transform"),
}

__all__ = [
    "SiftError",
    "Sparsifier",
    "SparsityConfig",
    "__version__",
    "analyze",
    "apply_masks",
    "check",
    "convert",
    "densify",
    "diff",
    "export",
    "flops",
    "inspect",
    "library_path",
    "load",
    "masks",
    "plan",
    "save",
    "session",
    "sparsify",
    "transform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"{__name__}.{home}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Importing the package ``sift_cli.export`` binds it to that name here, where the function of that name belongs."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
