"""Computing in double precision, also where a model's code asks for single.

Norms and softmaxes of many models convert to float32 and back, so that half precision does not hurt. In a comparison
of two models in double precision that is where they would differ, by 1e-7.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


class InDouble(TorchFunctionMode):
    """Makes every conversion to float32 one to float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args, kwargs = tree_map(lambda one: torch.float64 if one is torch.float32 else one, (args, kwargs or {}))
        return func(*args, **kwargs)
