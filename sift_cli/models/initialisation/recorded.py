"""From a recorded construction to distributions by parameter name."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from sift_cli.core.plan import Architecture
from sift_cli.models.building import build
from sift_cli.models.initialisation.calls import Call
from sift_cli.models.initialisation.draw import Draw
from sift_cli.models.initialisation.fans import rescaled
from sift_cli.models.initialisation.recorder import Event, Recorder, storage_of
from sift_cli.models.initialisation.segments import Segments
from sift_cli.models.naming import source_of


@dataclass(frozen=True)
class Part:
    """Rows ``start`` to ``stop`` of a parameter and what they are drawn from. A scalar is one row."""

    start: int
    stop: int
    draw: Draw


@dataclass(frozen=True)
class Initialisation:
    """What the parameters of a model are drawn from.

    Attributes:
        parts: First name of a parameter → its rows, all of them, in order. A name that is missing is of a parameter
            whose values are computed, not drawn, and which has the shape it had.
        notes: Sentences on what was measured and not read.
    """

    parts: Mapping[str, tuple[Part, ...]]
    notes: tuple[str, ...] = ()


def initialisation(architecture: Architecture, at: nn.Module | None = None) -> Initialisation:
    """How a freshly built model of ``architecture`` is initialised.

    Args:
        architecture: The model.
        at: The same model with other shapes, on any device; its values do not matter and nothing in it changes.
            Parameters that the architecture does not have are left out. None for the architecture's own shapes.

    Raises:
        ModelError: The architecture does not build.
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # Copying a fake tensor warns of its data pointer, which nobody reads.
        warnings.simplefilter("ignore")
        recorder, model = _recorded(architecture)
        tensors = dict((at or model).named_parameters())
        if at is None:
            parts = {name: _rows(recorder.known(tensor), tensor) for name, tensor in tensors.items()}
        else:
            parts = _at(recorder, model, at)
    missing = [name for name, rows in parts.items() if rows is None]
    measured, notes = _measured(architecture, missing, tensors) if missing else ({}, ())
    return Initialisation({name: rows for name, rows in (parts | measured).items() if rows is not None}, notes)


def _recorded(architecture: Architecture) -> tuple[Recorder, nn.Module]:
    """A recorder that has seen the model being built, and the model.

    On fake tensors first; a constructor that computes sizes with tensors (torchvision's regnets) needs real ones.
    """
    expected = {name: tensor.shape for name, tensor in build(architecture, device="meta").named_parameters()}
    with contextlib.suppress(Exception):  # whatever the model's code makes of tensors without values
        recorder, model = _build_recorded(architecture, FakeTensorMode(allow_non_fake_inputs=True))
        if {name: tensor.shape for name, tensor in model.named_parameters()} == expected:
            return recorder, model
    return _build_recorded(architecture, contextlib.nullcontext())


def _build_recorded(architecture: Architecture, mode: Any) -> tuple[Recorder, nn.Module]:
    recorder = Recorder()
    with mode, recorder.recording():
        model: nn.Module = source_of(architecture).build(architecture.name, **architecture.kwargs)
    return recorder, model


def _at(recorder: Recorder, model: nn.Module, at: nn.Module) -> dict[str, tuple[Part, ...] | None]:
    """Rows of the parameters of ``at`` by name."""
    old, result = dict(model.named_parameters()), {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        wide = _fake(at)
        new = {name: tensor for name, tensor in wide.named_parameters() if name in old}
        again = _called_again(recorder, model, wide)
        # Calls that do not lead to what was recorded when they are made on a model of the old shapes did something
        # else, or in another order, and say nothing about the new shapes.
        same = _fake(model)
        check = _called_again(recorder, model, same)
        for name, tensor in new.items():
            before = _rows(recorder.known(old[name]), old[name])
            rows = _rows(again.known(tensor), tensor)
            if rows is None or _rows(check.known(same.get_parameter(name)), old[name]) != before:
                rows = _stretched(before, old[name].shape, tensor.shape)
            beside = f"{name.rpartition('.')[0]}.weight".removeprefix(".")
            shapes = [(old[one].shape, new[one].shape) for one in (name, beside) if one in new]
            unchanged = {part.draw for part in before or ()}
            result[name] = rows and tuple(
                replace(part, draw=rescaled(part.draw, shapes)) if part.draw in unchanged else part for part in rows
            )
    return result


def _fake(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with fake tensors of its shapes, tied ones tied."""
    stand_in: dict[int, Any] = {}
    for owner in module.modules():
        for tensor in tree_leaves(vars(owner)):  # plain attributes too, as VideoMAE's positions
            if isinstance(tensor, Tensor) and id(tensor) not in stand_in:
                fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                is_parameter = isinstance(tensor, nn.Parameter)
                stand_in[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
    return copy.deepcopy(module, stand_in)


def _called_again(recorder: Recorder, model: nn.Module, wide: nn.Module) -> Recorder:
    """What is known of ``wide`` after the calls that initialised ``model`` were made on it."""
    old, new = dict(model.named_parameters()), dict(wide.named_parameters())
    names = {storage_of(tensor): name for name, tensor in old.items() if name in new}
    paths = {id(child): path for path, child in model.named_modules()}
    children = dict(wide.named_modules())
    again = Recorder()
    # A call on modules is made once, whatever it reaches; one on tensors once for each that was copied from them.
    reached: dict[tuple[Call, str | None], frozenset[int]] = {}
    for event in recorder.events:
        name = names.get(event.storage)
        if name is None:
            continue

        def replaced(value: nn.Module | Tensor, name: str = name, event: Event = event) -> nn.Module | Tensor:
            if isinstance(value, nn.Module):
                return children[paths[id(value)]]
            storage = storage_of(value)
            whole = name if storage == event.origin else names[storage]
            if value.shape != old[whole].shape or value.stride() != old[whole].stride():
                raise KeyError(whole)  # a view; which part of the new tensor that would be, nobody knows
            return new[whole]

        keys = [(call, name if call.takes_tensors else None) for call in event.calls]
        target = storage_of(new[name])
        if any(target in reached.get(key, ()) for key in keys):
            continue
        for key in keys:
            if key not in reached:
                reached[key] = _made(key[0], replaced, again)
            if target in reached[key]:
                break
        else:
            again.forget(target)
    return again


def _made(call: Call, replaced: Callable[[Any], Any], again: Recorder) -> frozenset[int]:
    """The storages that ``call`` writes to; none if it fails, and then what it wrote is not to be relied on."""
    again.written.clear()
    try:
        with again.recording():
            call.again(replaced)
    except Exception:  # code of the model, in a state that it was not written for
        for storage in again.written:
            again.forget(storage)
        return frozenset()
    return frozenset(again.written)


def _rows(runs: Segments, tensor: Tensor) -> tuple[Part, ...] | None:
    """Runs of entries as rows of ``tensor``; None where something is not known or not rows."""
    length = math.prod(tensor.shape[1:])
    if runs.size != tensor.numel() or not runs.size:
        return None
    rows = []
    for start, stop, draw in runs:
        if draw is None or draw.cut is None or start % length or stop % length:
            return None
        rows.append(Part(start // length, stop // length, draw))
    return tuple(rows) if len(rows) == 1 or tensor.is_contiguous() else None


def _stretched(rows: tuple[Part, ...] | None, old: torch.Size, new: torch.Size) -> tuple[Part, ...] | None:
    """Rows of a tensor that got longer, each in its old proportion: three thirds stay three thirds."""
    if rows is None or not old or old[0] == new[0]:
        return rows
    factor = Fraction(new[0], old[0])
    if any((row.stop * factor).denominator != 1 for row in rows):
        return None
    return tuple(Part(int(row.start * factor), int(row.stop * factor), row.draw) for row in rows)


def _measured(
    architecture: Architecture, names: list[str], new: Mapping[str, Tensor]
) -> tuple[dict[str, tuple[Part, ...]], tuple[str, ...]]:
    """Rows and notes for parameters that the operators do not tell, from the values of two builds."""
    builds = [dict(build(architecture, seed=seed).named_parameters()) for seed in (0, 1)]
    rows: dict[str, tuple[Part, ...]] = {}
    drawn, computed = [], []
    for name in names:
        first, second = (tensors[name].detach() for tensors in builds)
        constant = bool((first == first.reshape(-1)[:1]).all())
        if not constant and first.equal(second) and first.shape == new[name].shape:
            computed.append(name)
            continue
        std, mean = torch.std_mean(first.double(), correction=0)
        draw = Draw("constant", float(mean)) if constant else Draw("normal", float(mean), float(std))
        rows[name] = (Part(0, new[name].shape[0] if new[name].dim() else 1, draw),)
        if not constant:
            drawn.append(name)
    notes = []
    if drawn:
        notes.append(f"drawn as normal with the mean and deviation measured on a build: {_some(drawn)}")
    if computed:
        notes.append(f"computed and not drawn, so left as they are: {_some(computed)}")
    return rows, tuple(notes)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
