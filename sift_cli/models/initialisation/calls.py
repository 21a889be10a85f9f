"""Function calls that were running while a tensor was initialised, and how to make them again on another model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType, MethodType
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Call:
    """A call that can be made again: of a function of a module or of a method, with a module or a tensor among its
    arguments (``nn.init.normal_(tensor)``, ``linear.reset_parameters()``, ``model._init_weights(module)``).

    Attributes:
        function: The plain function.
        positional, keywords: Its arguments as they were when it began.
        rank: What to try first. Calls without a float among their arguments, which somebody else may have computed from
            a size; among those the ones on the smallest module, which have the fewest side effects.
    """

    function: Callable[..., Any]
    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]
    rank: tuple[bool, float]

    @property
    def takes_tensors(self) -> bool:
        return any(isinstance(value, Tensor) for value in (*self.positional, *self.keywords.values()))

    def again(self, replaced: Callable[[Any], Any]) -> None:
        """Make the call with ``replaced(argument)`` for every module and tensor, also the module of a method."""

        def now(value: Any) -> Any:
            if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
                return MethodType(value.__func__, replaced(value.__self__))
            return replaced(value) if isinstance(value, nn.Module | Tensor) else value

        positional = [now(value) for value in self.positional]
        keywords = {key: now(value) for key, value in self.keywords.items()}
        with torch.no_grad():
            self.function(*positional, **keywords)


def call_of(frame: FrameType) -> Call | None:
    """The call that ``frame`` is in; None where it could not be made again: constructors, closures, generators."""
    code = frame.f_code
    if code.co_name.startswith(("<", "__")) or code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE):
        return None
    names, local = code.co_varnames, frame.f_locals
    plain, only = code.co_argcount, code.co_kwonlyargcount
    rest = iter(names[plain + only :])
    try:
        positional = [local[name] for name in names[:plain]]
        keywords = {name: local[name] for name in names[plain : plain + only]}
        if code.co_flags & inspect.CO_VARARGS:
            positional += local[next(rest)]
        if code.co_flags & inspect.CO_VARKEYWORDS:
            keywords |= local[next(rest)]
    except KeyError:  # deleted by the function
        return None
    given = [value for value in (*positional, *keywords.values()) if isinstance(value, nn.Module | Tensor)]
    function = _function(frame, positional[0] if positional else None) if given else None
    if function is None:
        return None
    values = (*positional, *keywords.values())
    reach = min((len(list(m.parameters())) for m in given if isinstance(m, nn.Module)), default=math.inf)
    return Call(function, tuple(positional), keywords, (any(isinstance(v, float) for v in values), reach))


def _function(frame: FrameType, first: Any) -> Callable[..., Any] | None:
    """The function that runs in ``frame``, found by its name in its module or in the class of its first argument."""
    name = frame.f_code.co_name
    spaces = [frame.f_globals, *(vars(cls) for cls in type(first).__mro__)]
    return next((found for space in spaces if (found := _with_code(space.get(name), frame.f_code))), None)


def _with_code(candidate: Any, code: CodeType) -> Callable[..., Any] | None:
    while candidate is not None:
        if getattr(candidate, "__code__", None) is code:
            function: Callable[..., Any] = candidate
            return function
        candidate = getattr(candidate, "__wrapped__", None)
    return None
