"""Names of parameters as the model itself has them, whatever is wrapped around it.

Masks are drawn by name, saved by name and found again by name, so a name must not depend on whether the model is
compiled, replicated or averaged.
"""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel

#: Wrapper → the attribute under which it has what it wraps.
_WRAPPERS: dict[type[nn.Module], str] = {
    nn.parallel.DistributedDataParallel: "module",
    nn.DataParallel: "module",
    AveragedModel: "module",
}
#: Attributes that only wrappers have: of torch.compile, of activation checkpointing.
_MARKS = frozenset({"_orig_mod", "_checkpoint_wrapped_module"})


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of ``model``."""
    while inner := _inner(model):
        model = model.get_submodule(inner)
    return model


def plain_names(model: nn.Module) -> dict[str, str]:
    """Name of each parameter of ``model`` → its name without wrappers."""
    return {name: plain_name(model, name) for name, _ in model.named_parameters()}


def plain_name(model: nn.Module, name: str) -> str:
    """``name``, of a module or a parameter of ``model``, without wrappers."""
    kept, module = [], model
    for part in name.split("."):
        if part != _inner(module):
            kept.append(part)
        if (child := module._modules.get(part)) is not None:  # and not ``or``: a compiled module has no truth value
            module = child
    return ".".join(kept)


def _inner(module: nn.Module) -> str | None:
    """The child of ``module`` that it wraps."""
    for wrapper, attribute in _WRAPPERS.items():
        if isinstance(module, wrapper):
            return attribute
    return next((name for name in module._modules if name in _MARKS), None)
