"""Sparse Wide: multiply every hidden width by k = 1/√(1−s) and keep as many weights as the dense model had.

Source: Thangarasa et al., "Sparse-IFT: Sparse Iso-FLOP Transformations for Maximizing Training Efficiency", section
3. The stem and the head see the outside on one side, so they grow by k and not by k²; they stay dense by default, as
in the paper. What they cost more is taken from the sparse layers (``match="model"``), which makes the solved sparsity
a little
higher than the nominal one: .91475 instead of .9 for ResNet-18.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from sift_cli.core.counts import FlopReport
from sift_cli.core.plan import Edit, PlannedLayer, TransformPlan
from sift_cli.errors import ModelError, PlanError
from sift_cli.flops import count_module
from sift_cli.flops.paper_gpt import gpt_count, overhead_note
from sift_cli.flops.shadow import shadow
from sift_cli.models import LoadedModel
from sift_cli.models.calling import Inputs, map_inputs
from sift_cli.transforms import _masking
from sift_cli.transforms._init import preserve_fills, scratch_fills
from sift_cli.transforms._layers import check_globs, require_within, used_weights
from sift_cli.transforms._options import TransformOptions
from sift_cli.transforms._widen import widen
from sift_cli.widths import LayerRole, WidthGraph

#: Options it understands beyond those of all transforms.
OPTIONS = frozenset({"multiple", "layer_width", "allow_partial", "allow_approximate"}) | _masking.OPTIONS
#: What it can start from.
INITS = frozenset({"scratch", "preserve"})


def decide(model: LoadedModel, options: TransformOptions) -> TransformPlan:
    """The plan that makes ``model`` wide and sparse.

    Raises:
        PlanError: A width is fixed by a literal in the model's code, or an option does not fit the model.
        Infeasible: The budget does not pay for the layers that stay dense.
        UnsupportedOp: The model's forward pass cannot be traced.
    """
    _masking.check(options)
    meta = shadow(model.module, "meta")
    inputs = map_inputs(lambda tensor: tensor.to("meta"), model.inputs)
    before = count_module(meta, inputs, counter="dispatch", nonzero={})
    edits: list[Edit] = []
    notes: tuple[str, ...] = ()
    inexact: tuple[str, ...] = ()
    graph: WidthGraph | None = None
    if options.sparsity:
        widened = widen(meta, inputs, 1 / (1 - options.sparsity), options)
        edits, graph, wide, notes = list(widened.edits), widened.graph, widened.module, widened.notes
        inexact = widened.kept.inexact
        after = count_module(wide, inputs, counter="dispatch", nonzero={})
        layers = _layers(after, meta, wide, graph, options)
        choices = _solve(layers, wide, before, after, options)
        nonzero = {name: choice.nonzero for name, choice in choices.items()}
        if options.init == "scratch":
            fills, drawn = scratch_fills(wide, model.architecture, options.seed)
            edits, notes = [*edits, *fills], (*notes, *drawn)
        else:
            sparse = {layers[name].weight for name in nonzero}
            edits += preserve_fills(wide, edits, sparse, options.seed, widened.kept)
            edits += widened.kept.fills
        edits += [_masking.attach(choice, options) for choice in choices.values() if choice.sparse]
        notes = (*notes, *_masking.notes(choices, options), *_overhead(meta, before, wide, inputs, layers, nonzero))
    else:
        choices = {}
        after = before
        layers = _layers(after, meta, meta, None, options)
        nonzero = {}
    planned = tuple(
        PlannedLayer(
            name,
            layer.op,
            layer.weight,
            "fixed" if name in choices and choices[name].given else layer.role,
            layer.positions,
            layer.before,
            layer.after,
            nonzero.get(name, layer.after),
        )
        for name, layer in layers.items()
    )
    others = (before.dense - sum(p.macs_before for p in planned), _other_macs(layers, after))
    space = ["search_space"] if choices else []
    promises = ["iso_flop", "mask_cardinality", *space, "io_shapes", "roundtrip"]
    if any(choice.pattern.name != "unstructured" for choice in choices.values()):
        promises.append("pattern")
    if options.init == "preserve" or not options.sparsity:
        promises.append("function_error" if inexact else "same_function")
    plan = TransformPlan(
        kind="wide",
        sparsity=str(options.sparsity),
        options=options.to_json(),
        architecture=model.architecture,
        inputs=model.specs,
        edits=tuple(edits),
        layers=planned,
        promises=tuple(promises),
        notes=(*_notes(planned, others, options), *notes),
        other_macs=others,
    )
    if options.match == "model":
        require_within(plan, hint="let more layers be sparse (--keep, --only), or use --match layer")
    return plan


@dataclass(frozen=True)
class _Layer:
    op: str
    weight: str
    role: str
    positions: int
    before: int
    after: int


def _layers(
    after: FlopReport,
    module: nn.Module,
    wide: nn.Module,
    graph: WidthGraph | None,
    options: TransformOptions,
) -> dict[str, _Layer]:
    """Layers with a weight by name, with role and cost. A weight that is used several times is one layer."""
    old, new = dict(module.named_parameters()), dict(wide.named_parameters())
    used = used_weights(wide, after)
    # A module with several weights (a recurrent layer) is several layers, named as its weights.
    weights = Counter(use.layer for use in used.values())
    layers: dict[str, _Layer] = {}
    for weight, use in used.items():
        name = use.layer if weights[use.layer] == 1 else weight
        selected = options.selects(name)
        role = graph.roles.get(weight, LayerRole.HIDDEN) if graph is not None else LayerRole.HIDDEN
        recurrent = isinstance(module.get_submodule(weight.rpartition(".")[0]), nn.RNNBase)
        if selected is False or recurrent or (selected is None and old[weight].shape == new[weight].shape):
            # By wish; because ONNX packs the weights of a recurrent layer in a way that no sparse operator takes; or
            # because a layer that does not grow (ECA's kernel over channels) has nothing to pay.
            named = "kept"
        elif selected is None and role in (LayerRole.FIRST, LayerRole.LAST):
            named = role.value
        else:
            named = "depthwise" if role is LayerRole.DEPTHWISE else "sparse"
        layers[name] = _Layer(use.op, weight, named, use.positions, old[weight].numel(), new[weight].numel())
    check_globs(options, layers)
    return layers


def _solve(
    layers: Mapping[str, _Layer], wide: nn.Module, before: FlopReport, after: FlopReport, options: TransformOptions
) -> dict[str, _masking.Choice]:
    """What the layers that become sparse keep, by layer name."""
    # A depthwise layer grows by k and not by k², so its own iso-FLOP sparsity is 1 − 1/k: as many weights as before.
    # (The paper widens depthwise layers by k², which their neighbours in a block, widened by k, cannot follow.)
    roles = {"sparse", "depthwise"}
    if options.init == "preserve" and options.match == "model":
        # The original weights use up the whole budget, so stem and head keep to their block as well.
        roles |= {"first", "last"}
    if not any(layer.role == "sparse" for layer in layers.values()) and options.init == "scratch":
        raise PlanError("no layer is left to be sparse", hint="loosen --only or --keep")
    sites = {
        name: _masking.site(
            wide, layer.weight, positions=layer.positions, before=layer.before, own=layer.role == "depthwise"
        )
        for name, layer in layers.items()
        if layer.role in roles
    }
    dense = sum(layer.positions * layer.after for name, layer in layers.items() if name not in sites)
    budget = before.dense - dense - _other_macs(layers, after)
    return _masking.choose(sites, budget if options.match == "model" else None, options, transform="wide")


def _overhead(
    meta: nn.Module,
    before: FlopReport,
    wide: nn.Module,
    inputs: Inputs,
    layers: Mapping[str, _Layer],
    nonzero: Mapping[str, int],
) -> Iterator[str]:
    """What a GPT costs more by the paper's own formula, where it is one."""
    kept = {layers[name].weight: count for name, count in nonzero.items()}
    with contextlib.suppress(ModelError):
        dense = gpt_count(meta, before)  # first: most models are none, and need not be counted again
        after = count_module(wide, inputs, counter="dispatch", nonzero=kept)
        note = overhead_note(dense, gpt_count(wide, after))
        if note:
            yield note


def _other_macs(layers: Mapping[str, _Layer], report: FlopReport) -> int:
    """MACs that are of no layer: products of activations, convolutions with a constant filter."""
    return report.dense - sum(layer.positions * layer.after for layer in layers.values())


def _notes(layers: tuple[PlannedLayer, ...], others: tuple[int, int], options: TransformOptions) -> Iterator[str]:
    if not options.sparsity:
        yield "sparsity 0 changes nothing"
        return
    if options.match == "layer":
        before = sum(layer.macs_before for layer in layers) + others[0]
        after = sum(layer.macs_after for layer in layers) + others[1]
        if after != before:
            more: dict[str, int] = {}
            for layer in layers:
                cause = "sparse layers" if layer.role in ("sparse", "depthwise", "fixed") else layer.name
                more[cause] = more.get(cause, 0) + layer.macs_after - layer.macs_before
            more["products of activations (attention)"] = others[1] - others[0]
            causes = [f"{cause} {macs:+,}" for cause, macs in more.items() if macs]
            most = "at most " if options.given & _masking.OPTIONS else ""
            yield (
                f"every sparse layer keeps {most}its MACs, the model has {after / before - 1:+.2%} in total: "
                + ", ".join(causes)
            )
    if options.init == "scratch":
        yield "weights are drawn anew (--init scratch); --init preserve starts from the function of the given ones"
    else:
        yield (
            "every kept weight comes from an original one, so new channels take part once dynamic sparse training "
            "grows connections to them"
        )
