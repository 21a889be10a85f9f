"""Transforms that put another layer in the place of a dense one.

Each layer pays for itself: what comes has as many multiply-adds as what goes, so any subset of the layers can be
replaced. The kinds differ in what they put there, which is a function from a layer to a :class:`Choice`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from sift_cli.core.plan import Edit, ReplaceLayer, TransformPlan
from sift_cli.errors import PlanError
from sift_cli.flops import count_module
from sift_cli.models import LoadedModel
from sift_cli.models.calling import Inputs, map_inputs
from sift_cli.transforms._options import TransformOptions
from sift_cli.transforms._parts import own_activation
from sift_cli.transforms._place import places
from sift_cli.transforms._targets import Dense, sort
from sift_cli.transforms._widen import Widened

#: Options that the kinds of this family understand.
OPTIONS = frozenset({"nonlinearity", "compat"})


@dataclass(frozen=True)
class Choice:
    """What takes a layer's place.

    Attributes:
        arguments: Of the new layer, without those of its σ.
        nonzero: Weights kept, for each of its tensors that gets a mask.
        takes: Tensor → what it takes from the old layer where the function is to be kept, in this order.
    """

    arguments: Mapping[str, int]
    nonzero: Mapping[str, int] = field(default_factory=dict)
    takes: Mapping[str, Literal["original", "svd_u", "svd_v"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """One transform of this family.

    Attributes:
        name: Of the transform.
        layer: The plug-in of :mod:`sift_cli.layers` that it puts in.
        choose: From all layers to be replaced, and the MACs that the others leave to them, to what takes the place of
            each by its path; one that is missing stays.
        keeps: How masks are chosen where the function is kept, and what is promised of it then.
        released: σ of the official code.
        notes: Sentences for the user.
    """

    name: str
    layer: str
    choose: Callable[[Sequence[Dense], int], Mapping[str, Choice]]
    keeps: tuple[Literal["partition", "topk"], Literal["same_function", "approximation"]]
    released: Literal["none", "norm", "norm-act"]
    notes: tuple[str, ...] = ()


def each(choose: Callable[[Dense], Choice | None]) -> Callable[[Sequence[Dense], int], dict[str, Choice]]:
    """A choice made for each layer by itself."""

    def choose_all(targets: Sequence[Dense], budget: int) -> dict[str, Choice]:
        return {target.path: choice for target in targets if (choice := choose(target)) is not None}

    return choose_all


def released_count(options: TransformOptions, weights: int) -> int:
    """Weights that the official code keeps of ``weights``: its random masks toss a coin for each, and the first update
    of a dynamic method brings them to this count."""
    return int((1 - options.sparsity) * weights)


def decide_in_place(
    model: LoadedModel, options: TransformOptions, kind: Kind, widen: Callable[[nn.Module, Inputs], Widened] | None = None
) -> TransformPlan:
    """The plan that replaces the hidden layers of ``model``, at its own widths or at those that ``widen`` gives it.

    Raises:
        PlanError: An option does not fit, or no layer is left to be replaced.
        Infeasible: The budget does not pay for the layers that stay dense.
        UnsupportedOp: The model's forward pass cannot be followed.
    """
    if options.init == "preserve" and options.nonlinearity not in (None, "none"):
        raise PlanError(
            f"--init preserve keeps the function, which --nonlinearity {options.nonlinearity} changes",
            hint="leave out --nonlinearity, or use --init scratch",
        )
    meta = copy.deepcopy(model.module).to("meta")
    inputs = map_inputs(lambda tensor: tensor.to("meta"), model.inputs)
    before = count_module(meta, inputs, counter="dispatch", nonzero={})
    widened = widen(meta, inputs) if widen is not None else None
    base = widened.module if widened is not None else meta
    edits: list[Edit] = list(widened.edits) if widened is not None else []
    dense = before if widened is None else count_module(base, inputs, counter="dispatch", nonzero={})
    found, notes = sort(meta, base, dense, places(base, inputs), options)
    targets = [layer for layer in found if layer.role == "target"]
    budget = before.dense - dense.dense + sum(layer.positions * layer.weights for layer in targets)
    choices = kind.choose(targets, budget)
    if not choices:
        raise PlanError("no layer is left to be replaced", hint="loosen --only or --keep")
    activation = own_activation(meta)
    sigmas = {target.path: _sigma(target, options, kind, activation or "relu") for target in targets}
    edits += [
        ReplaceLayer(path, kind.layer, {**choice.arguments, **sigmas[path][1]}) for path, choice in choices.items()
    ]
    module, after = _carried_out(meta, edits, inputs)
    masks = {f"{path}.{key}": kept for path, choice in choices.items() for key, kept in choice.nonzero.items()}
    if options.compat:
        masks |= {x.weight: released_count(options, x.weights) for x in found if x.role == "shortcut"}
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    masks = {name: kept for name, kept in masks.items() if kept < sizes[name]}
    edits += _values(base, module, edits, choices, masks, options, kind)
    planned = tuple(_planned(found, choices, after, module, masks))
    notes += [*_sigma_notes(choices, sigmas, activation), *kind.notes, *(widened.notes if widened else ())]
    return _assembled(model, options, kind, edits, planned, (before, after), notes)


def identity(model: LoadedModel, options: TransformOptions, kind: str) -> TransformPlan:
    """The plan that changes nothing, for sparsity 0."""
    meta = copy.deepcopy(model.module).to("meta")
    inputs = map_inputs(lambda tensor: tensor.to("meta"), model.inputs)
    report = count_module(meta, inputs, counter="dispatch", nonzero={})
    found, _ = sort(meta, meta, report, places(meta, inputs), options)
    planned = tuple(_row(layer, "kept" if layer.role == "target" else layer.role, layer.weights) for layer in found)
    ...
