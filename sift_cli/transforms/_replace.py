"""Transforms that put another layer in the place of a dense one.

Each layer pays for itself: what comes has as many multiply-adds as what goes, so any subset of the layers can be
replaced. The kinds differ in what they put there, which is a function from a layer to a :class:`Choice`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

from torch import nn

from sift_cli import layers
from sift_cli.core.counts import FlopReport
from sift_cli.core.plan import AttachMask, Edit, FillTensor, PlannedLayer, ReplaceLayer, TransformPlan
from sift_cli.core.seeds import derive_seed
from sift_cli.errors import PlanError
from sift_cli.flops import count_module
from sift_cli.flops.shadow import shadow
from sift_cli.models import LoadedModel
from sift_cli.models.calling import Inputs, map_inputs
from sift_cli.surgery import apply_edits
from sift_cli.transforms._init import scratch_fills
from sift_cli.transforms._layers import require_within
from sift_cli.transforms._options import TransformOptions
from sift_cli.transforms._parts import own_activation, part_fills
from sift_cli.transforms._place import places
from sift_cli.transforms._targets import Dense, sort

#: Options that the kinds of this family understand.
OPTIONS = frozenset({"nonlinearity", "compat"})
#: What a tensor takes over from the layer that was there.
Take: TypeAlias = Literal["original", "svd_u", "svd_v"]


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
    takes: Mapping[str, Take] = field(default_factory=dict)


class Keeps(NamedTuple):
    """How masks are chosen where the old weights are kept, and what is promised of the function then."""

    rule: Literal["partition", "topk"]
    promise: Literal["same_function", "approximation"]


@dataclass(frozen=True)
class Kind:
    """One transform of this family.

    Attributes:
        name: Of the transform.
        layer: The plug-in of :mod:`sift_cli.layers` that it puts in.
        choose: From all layers that can be replaced, and the MACs that the others leave to them, to what takes the
            place of each by its path; one that is missing stays.
        released: σ of the official code.
        keeps: What --init preserve means; None where it means nothing.
        stays: Roles whose layers stay as they are unless a glob names them.
        notes: Sentences for the user.
    """

    name: str
    layer: str
    choose: Callable[[Sequence[Dense], int], Mapping[str, Choice]]
    released: Literal["none", "norm", "norm-act"]
    keeps: Keeps | None
    stays: frozenset[str] = frozenset({"first", "last", "shortcut"})
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Base:
    """The dense model whose layers are replaced, on the meta device: the original, or that at other widths.

    Attributes:
        module: It.
        edits: What makes it of the original.
        notes: Sentences for the user.
    """

    module: nn.Module
    edits: tuple[Edit, ...] = ()
    notes: tuple[str, ...] = ()


def each(choose: Callable[[Dense], Choice | None]) -> Callable[[Sequence[Dense], int], dict[str, Choice]]:
    """A choice that is made for each layer by itself."""

    def choose_all(targets: Sequence[Dense], budget: int) -> dict[str, Choice]:
        return {target.path: choice for target in targets if (choice := choose(target)) is not None}

    return choose_all


def nothing(targets: Sequence[Dense], budget: int) -> dict[str, Choice]:
    """No layer is replaced: what sparsity 0 asks for."""
    return {}


def released_count(options: TransformOptions, weights: int) -> int:
    """Weights that the official code keeps of ``weights``: its random masks toss a coin for each, and the first update
    of a dynamic method brings them to this count."""
    return int((1 - options.sparsity) * weights)


def decide_in_place(
    model: LoadedModel,
    options: TransformOptions,
    kind: Kind,
    rebuilt: Callable[[nn.Module, Inputs], Base] = lambda meta, inputs: Base(meta),
) -> TransformPlan:
    """The plan that replaces the hidden layers of ``model``, after ``rebuilt`` has given it other widths.

    Raises:
        PlanError: An option does not fit, or no layer is left to be replaced.
        Infeasible: The budget does not pay for the layers that stay dense.
        UnsupportedOp: The model's forward pass cannot be followed.
    """
    if options.init == "preserve":
        _check_preserve(options)
    meta = shadow(model.module, "meta")
    inputs = map_inputs(lambda tensor: tensor.to("meta"), model.inputs)
    before = count_module(meta, inputs, counter="dispatch", nonzero={})
    base = rebuilt(meta, inputs)
    dense = before if base.module is meta else count_module(base.module, inputs, counter="dispatch", nonzero={})
    found, remarks = sort(meta, base.module, dense, places(base.module, inputs), options, kind.stays)
    targets = [layer for layer in found if layer.role == "target"]
    budget = before.dense - dense.dense + sum(layer.positions * layer.weights for layer in targets)
    choices = dict(kind.choose(targets, budget))
    if not choices and kind.choose is not nothing:
        raise PlanError("no layer is left to be replaced", hint="loosen --only or --keep")
    sigma = _Sigma(options, kind, meta)
    edits: list[Edit] = list(base.edits)
    edits += [
        ReplaceLayer(target.path, kind.layer, {**choices[target.path].arguments, **sigma.arguments(target)})
        for target in targets
        if target.path in choices
    ]
    module, after = _carried_out(meta, edits, inputs)
    masks = {f"{path}.{key}": kept for path, choice in choices.items() for key, kept in choice.nonzero.items()}
    if options.compat:
        masks |= {x.weight: released_count(options, x.weights) for x in found if x.role == "shortcut"}
    masks = {name: kept for name, kept in masks.items() if kept < module.get_parameter(name).numel()}
    if choices and options.init == "preserve":
        for path, choice in choices.items():
            edits += _taken(path, choice, masks, options, kind)
    elif choices:
        fills, drawn = scratch_fills(base.module, model.architecture, options.seed)
        edits += _drawn(fills, base.module, module, list(choices), masks, options)
        remarks += drawn
    macs = Counter[str]()
    for count in after.layers:
        macs[count.weight or ""] += count.dense
    planned = tuple(row for layer in found for row in _rows(layer, choices, module, macs, masks))
    plan = TransformPlan(
        kind=kind.name,
        sparsity=str(options.sparsity),
        options=options.to_json(),
        architecture=model.architecture,
        inputs=model.specs,
        edits=tuple(edits),
        layers=planned,
        promises=_promises(options, kind, changed=bool(choices), masked=bool(masks)),
        notes=(*kind.notes, *base.notes, *remarks, *sigma.notes(), *_notes(options, bool(choices))),
        other_macs=(
            before.dense - sum(row.macs_before for row in planned),
            after.dense - sum(row.positions * row.numel_after for row in planned),
        ),
    )
    if options.match == "model" and not options.compat:
        require_within(plan, hint="let more layers be replaced (--keep, --only), or use --match layer")
    if plan.macs_after > plan.macs_before and not options.compat:
        rows = (layer for layer in planned if layer.macs_after > layer.macs_before > 0)
        more = {layer.name: layer.macs_after - layer.macs_before for layer in rows}
        more["products without a weight"] = plan.other_macs[1] - plan.other_macs[0]
        causes = ", ".join(f"{name} {macs:+,}" for name, macs in more.items() if macs)
        overhead = f"the model has {plan.macs_after / plan.macs_before - 1:+.2%} MACs in total: {causes}"
        plan = replace(plan, notes=(overhead, *plan.notes))
    return plan


def _check_preserve(options: TransformOptions) -> None:
    if options.nonlinearity not in (None, "none"):
        raise PlanError(
            f"--init preserve keeps the function, which --nonlinearity {options.nonlinearity} changes",
            hint="leave out --nonlinearity, or use --init scratch",
        )
    if options.compat:
        raise PlanError("--compat released is for training from scratch", hint="use --init scratch")


def _carried_out(meta: nn.Module, edits: Sequence[Edit], inputs: Inputs) -> tuple[nn.Module, FlopReport]:
    """The new model on the meta device and its MACs.

    Raises:
        PlanError: The model does not run with its new layers.
    """
    module, _ = apply_edits(meta, edits)
    try:
        return module, count_module(module, inputs, counter="dispatch", nonzero={})
    except AttributeError as error:
        raise PlanError(
            f"the model looks for the weight of a layer that is replaced ({error})", hint="--keep that layer"
        ) from None


def _drawn(
    fills: Sequence[FillTensor],
    base: nn.Module,
    module: nn.Module,
    replaced: Sequence[str],
    masks: Mapping[str, int],
    options: TransformOptions,
) -> Iterator[Edit]:
    """New values: ``fills`` for what stays and for parts of the shape of what goes, other parts by their own shape, and
    random masks."""
    inside = tuple(f"{path}." for path in replaced)
    yield from (fill for fill in fills if not fill.tensor.startswith(inside))
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    by_name = {name: list(group) for name, group in itertools.groupby(fills, lambda fill: fill.tensor)}
    for path in replaced:
        weight = layers.weight_of(base.get_submodule(path))
        dense = by_name.get(f"{path}.weight", [])
        for fill in part_fills(path, module.get_submodule(path), options.seed):
            alike = len(dense) == 1 and shapes[fill.tensor] == weight.shape
            yield replace(dense[0], tensor=fill.tensor) if alike else fill
    for name, kept in masks.items():
        yield AttachMask(name, kept, "random", options.seed)


def _taken(
    path: str, choice: Choice, masks: Mapping[str, int], options: TransformOptions, kind: Kind
) -> Iterator[Edit]:
    """The old layer's weights, shared out. A mask comes before what is computed from what it leaves."""
    assert kind.keeps is not None
    seed, offset = derive_seed(options.seed, path, "partition"), 0
    for key, what in choice.takes.items():
        name = f"{path}.{key}"
        yield FillTensor(name, what)
        if name not in masks:
            continue
        if kind.keeps.rule == "partition":
            yield AttachMask(name, masks[name], "partition", seed, offset)
            offset += masks[name]
        else:
            yield AttachMask(name, masks[name], "topk")


def _rows(
    layer: Dense, choices: Mapping[str, Choice], module: nn.Module, macs: Mapping[str, int], masks: Mapping[str, int]
) -> Iterator[PlannedLayer]:
    """The layer in the plan: itself, or that it goes and the parts of what comes.

    Raises:
        PlanError: The model does not call the new layer where it called the old one.
    """
    if layer.path not in choices:
        role = "kept" if layer.role == "target" else "sparse" if layer.weight in masks else layer.role
        kept = masks.get(layer.weight, layer.weights)
        yield PlannedLayer(layer.path, layer.op, layer.weight, role, layer.positions, layer.budget, layer.weights, kept)
        return
    yield PlannedLayer(layer.path, layer.op, layer.weight, "replaced", layer.positions, layer.budget, 0, 0)
    for inside, part in module.get_submodule(layer.path).named_modules():
        if not isinstance(part, nn.Linear | nn.modules.conv._ConvNd):
            continue
        name, numel = f"{layer.path}.{inside}", part.weight.numel()
        if macs[f"{name}.weight"] != layer.positions * numel:
            raise PlanError(f"the model does not call {layer.path} in one way only", hint=f"--keep {layer.path}")
        masked = masks.get(f"{name}.weight")
        role, kept = ("factor", numel) if masked is None else ("sparse", masked)
        yield PlannedLayer(name, layer.op, f"{name}.weight", role, layer.positions, 0, numel, kept)


def _promises(options: TransformOptions, kind: Kind, *, changed: bool, masked: bool) -> tuple[str, ...]:
    macs = "planned_macs" if options.compat else "iso_flop"
    kept = [] if changed else ["same_function"]
    if changed and kind.keeps is not None and options.init == "preserve":
        kept = [kind.keeps.promise]
    # Of the official code's masks, some of which are on other tensors, the paper's table says nothing.
    space = ["search_space"] if masked and not options.compat else []
    return (macs, "mask_cardinality", *space, "io_shapes", "roundtrip", *kept)


class _Sigma:
    """σ of each new layer: as asked for, else as the paper, BatchNorm and an activation after convolutions, and an
    activation alone after linear layers."""

    def __init__(self, options: TransformOptions, kind: Kind, module: nn.Module) -> None:
        self._options, self._kind = options, kind
        self._own = own_activation(module)
        self._used: Counter[tuple[str, str]] = Counter()

    def arguments(self, target: Dense) -> dict[str, int | str]:
        chosen = self._options.nonlinearity
        if chosen is None and self._options.init == "preserve":
            chosen = "none"
        elif chosen is None and self._options.compat:
            chosen = self._kind.released
        elif chosen is None:
            chosen = "norm-act" if target.op == "conv" else "act"
        self._used[target.op, chosen] += 1
        activation = (self._own or "relu") if chosen.endswith("act") else layers.IDENTITY
        return {"norm": int(chosen.startswith("norm")), "activation": activation}

    def notes(self) -> Iterator[str]:
        origin = "the model's own activation" if self._own else "no activation was found among the model's modules"
        words = {"none": "nothing", "act": "{0}", "norm": "BatchNorm", "norm-act": "BatchNorm and {0}"}
        for (op, chosen), times in self._used.items():
            after = words[chosen].format(self._own or "relu")
            why = f" ({origin})" if chosen.endswith("act") else ""
            yield f"σ is {after} in {times} {op} layers{why}"


def _notes(options: TransformOptions, changed: bool) -> Iterator[str]:
    if not changed:
        yield "sparsity 0 changes nothing"
        return
    if options.compat:
        yield "counted as the official code does (--compat released), which is not iso-FLOP: see the MACs"
    if options.init == "scratch":
        yield "weights are drawn anew (--init scratch); --init preserve starts from the given ones"
