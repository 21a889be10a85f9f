"""The user's own models, ``package.module:callable``, imported from the current folder or wherever Python looks."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sift_cli.errors import ModelError, UnknownArchitecture

if TYPE_CHECKING:
    from torch import nn

PACKAGE: str | None = None


def names() -> tuple[str, ...]:
    return ()


def has(name: str) -> bool:
    """Whether ``name`` is written as a factory; whether it exists shows when it is built."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def variants(name: str) -> tuple[dict[str, Any], ...]:
    return ({},)


def build(name: str, **kwargs: Any) -> nn.Module:
    """Import the callable and call it.

    Raises:
        UnknownArchitecture: There is no such module, or no such attribute in it.
        ModelError: The module does not import, the call fails, or its result is not an ``nn.Module``.
    """
    from torch import nn

    factory = named(name)
    try:
        model = factory(**kwargs)
    except Exception as error:
        raise ModelError(f"{name}({_written(kwargs)}) failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def inputs(name: str, kwargs: Mapping[str, Any]) -> None:
    return None


def named(name: str) -> Any:
    """The callable itself; raises as :func:`build`."""
    module_name, _, path = name.partition(":")
    with _current_folder_first():
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise ModelError(f"the module {module_name} does not import: {error}") from error
            raise UnknownArchitecture(
                f"there is no module {error.name} to take {name} from",
                hint="a factory is written package.module:callable and found from the current folder",
            ) from None
        except Exception as error:
            raise ModelError(f"the module {module_name} does not import: {type(error).__name__}: {error}") from error
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise UnknownArchitecture(f"{module_name} has no {path}")
        found = getattr(found, attribute)
    if not callable(found):
        raise ModelError(f"{name} is a {type(found).__name__}, which cannot be called")
    return found


@contextlib.contextmanager
def _current_folder_first() -> Iterator[None]:
    """An installed command does not look for modules in the current folder; ``python -m`` does, and so do users."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _written(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
