"""Importing torchvision, timm and transformers where they are installed but do not load.

A torchvision whose compiled half was built for another torch (most often: one for CUDA beside a CPU torch) fails on
``import torchvision`` with "operator torchvision::nms does not exist", because its Python half attaches shape functions
to operators that the compiled half should have defined. Classification models need none of them, so declaring the
operators' schemas, without an implementation, is enough; timm and transformers import torchvision and fail in the same
way. Measured with torch 2.13 and torchvision 0.28: nms and qnms are the only two declarations it takes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from sift_cli.errors import MissingExtra, ModelError

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# torch forgets a schema when the Library object that declared it is collected.
_declared: list[Any] = []


def import_torchvision(needed_for: str = "a torchvision model", *, extra: str = "torchvision") -> ModuleType:
    """The module ``torchvision``, also when its compiled operators do not load beside this torch.

    A torchvision that imports by itself is left as it is.

    Raises:
        MissingExtra: It is not installed; the hint names ``extra``.
        ModelError: It is installed and fails for another reason.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise _failed("torchvision", extra, needed_for, error) from error
    except ImportError as error:
        raise _failed("torchvision", extra, needed_for, error) from error
    # A failed import leaves behind the submodules that did load; they would be reused in their half-made state.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declare_operators()
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        raise _failed("torchvision", extra, needed_for, error) from error


def import_timm(needed_for: str = "a timm model") -> ModuleType:
    """The module ``timm``, which imports torchvision; see :func:`import_torchvision`.

    Raises:
        MissingExtra: timm, or the torchvision that it imports, is not installed.
        ModelError: It is installed and does not import.
    """
    import_torchvision(needed_for, extra="timm")
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        raise _failed("timm", "timm", needed_for, error) from error


def import_transformers(needed_for: str = "a transformers model") -> ModuleType:
    """The module ``transformers``, which imports torchvision where that is installed; see :func:`import_torchvision`.

    Raises:
        MissingExtra: transformers is not installed.
        ModelError: It, or torchvision, is installed and does not import.
    """
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision(needed_for)
    try:
        return importlib.import_module("transformers")
    except (ImportError, RuntimeError) as error:
        raise _failed("transformers", "transformers", needed_for, error) from error


def _declare_operators() -> None:
    import torch

    untyped: Any = torch.library
    library = untyped.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)


def _failed(package: str, extra: str, needed_for: str, error: Exception) -> ModelError:
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return MissingExtra(package, extra, needed_for)
    return ModelError(
        f"{package} is installed but does not import: {error}",
        hint=f"reinstall {package} in the version made for this torch",
        package=package,
    )
