"""Checkpoint → architecture, from the names and shapes of its tensors. Imports neither torch nor timm."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.prefixes import common_prefixes, stripped
from sift_cli.core.plan import Architecture
from sift_cli.errors import AmbiguousArchitecture, UnknownArchitecture
from sift_cli.models import fingerprints
from sift_cli.models.naming import source_of

_HINT = "pass --arch with its name, or with package.module:factory for a model of your own"


@dataclass(frozen=True)
class Identified:
    """What a checkpoint's layout says.

    Attributes:
        architecture: The model to build, with the number of classes among its arguments.
        num_classes: Number of classes read from the classifier; None where the architecture has no choice of it.
        same: Other architectures that compute the same function of the same weights.
        others: Architectures of the same layout that compute another function, and were passed over.
    """

    architecture: Architecture
    num_classes: int | None
    same: tuple[Architecture, ...] = ()
    others: tuple[Architecture, ...] = ()


def identify(checkpoint: Checkpoint) -> Identified:
    """The one architecture whose layout the checkpoint has, with any common prefix of the tensors' names ignored.

    Of architectures that compute the same function, the first whose package is installed. Of architectures that compute
    different functions, the one that is torchvision's or built in, if there is one: timm's resnetblur18 has the tensors
    of a ResNet-18, and a file with those tensors is still a ResNet-18 unless somebody says otherwise.

    Raises:
        AmbiguousArchitecture: timm's architectures that compute different functions share the layout.
        UnknownArchitecture: None has it.
    """
    found = candidates(checkpoint)
    if len(chosen := _without_variants(found)) == 1:
        others = tuple(one.architecture for one in found if one is not chosen[0])
        return replace(chosen[0], others=others)
    if found:
        raise AmbiguousArchitecture(checkpoint.path, [str(one.architecture) for one in found])
    for match in _matches(checkpoint):
        names = " or ".join(str(group[0]) for group in match.layout.groups)
        raise UnknownArchitecture(f"{checkpoint.path} holds {names} without the classifier", hint=_HINT)
    raise UnknownArchitecture(f"{checkpoint.path} holds no architecture that sift knows", hint=_nearest(checkpoint))


def candidates(checkpoint: Checkpoint) -> list[Identified]:
    """Every function that the checkpoint's weights could be meant for, one entry each; empty where none is known."""
    return [
        _choose(group, match.num_classes)
        for match in _matches(checkpoint)
        if not match.layout.headless
        for group in match.layout.groups
    ]


def architecture_of(checkpoint: Checkpoint) -> str | None:
    """The architecture in words, "torchvision:resnet18 (1000 classes)", or None where none is known."""
    matches = list(_matches(checkpoint))
    if not matches:
        return None
    found = candidates(checkpoint)
    if not found:
        return " or ".join(f"{group[0]} (no classifier)" for match in matches for group in match.layout.groups)
    names = " or ".join(str(one.architecture) for one in _without_variants(found))
    classes = found[0].architecture.kwargs.get("num_classes")
    if classes is None:
        return names
    return f"{names} ({f'{classes} classes' if classes else 'no classifier'})"


def views(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """The checkpoint under its own names, then with more and more of their common prefix taken off.

    Not all of it at once, because the end of it can be the model's own: a MobileNetV2 without its classifier that was
    trained in parallel has nothing but ``module.features.``
    """
    yield checkpoint
    prefix = common_prefixes(checkpoint.tensors)
    for dot in (at for at, letter in enumerate(prefix) if letter == "."):
        yield stripped(checkpoint, prefix[: dot + 1])


def shapes_of(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: spec.shape for name, spec in checkpoint.tensors.items()}


def _matches(checkpoint: Checkpoint) -> list[fingerprints.Match]:
    for view in views(checkpoint):
        if found := fingerprints.table().match(shapes_of(view)):
            return found
    return []


def _without_variants(found: list[Identified]) -> list[Identified]:
    plain = [one for one in found if any(member.source != "timm" for member in (one.architecture, *one.same))]
    return plain or found


def _choose(group: tuple[Architecture, ...], num_classes: int | None) -> Identified:
    if num_classes is not None:
        group = tuple(Architecture(one.source, one.name, {**one.kwargs, "num_classes": num_classes}) for one in group)
    best = next((one for one in group if _installed(one)), group[0])
    return Identified(best, num_classes, tuple(one for one in group if one is not best))


def _installed(architecture: Architecture) -> bool:
    package = source_of(architecture).PACKAGE
    return package is None or importlib.util.find_spec(package) is not None


def _nearest(checkpoint: Checkpoint) -> str:
    """What to try with a checkpoint of an unknown layout."""
    if checkpoint.module is not None:
        kind = type(checkpoint.module)
        return f"pass --arch {kind.__module__}:{kind.__qualname__}, or a factory if it does not build without arguments"
    for view in views(checkpoint):
        layouts = fingerprints.table().same_names(view.tensors)
        names = sorted({str(group[0]) for layout in layouts for group in layout.groups})
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            return f"its tensors have the names, but not the shapes, of {', '.join(names[:3])}{more}; {_HINT}"
    return _HINT
