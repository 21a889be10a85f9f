"""Widening alone: the edits that multiply the widths of a model by k and leave it dense."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from sift_cli.core.plan import Edit, FillTensor, ResizeAxis, SetAttribute, SetConfig
from sift_cli.errors import Infeasible, PlanError
from sift_cli.surgery import apply_edits, prove_attributes, prove_config
from sift_cli.surgery.configured import Changes
from sift_cli.transforms._options import TransformOptions
from sift_cli.transforms._preserve import Kept, check_layout, keep
from sift_cli.widths import (
    Attribute,
    Axis,
    Face,
    WidthGraph,
    WidthGroup,
    output_axis,
    output_shapes,
    solve_widths,
    trace_widths,
)

#: Weights of the widened dense tensors, which training and masking hold in memory: 64 GB of float32.
MAX_WEIGHTS = 16 * 10**9


@dataclass(frozen=True)
class Widened:
    """A model at its new widths.

    Attributes:
        edits: What makes it so; sizes and attributes, no values.
        graph: The widths of the original.
        module: The widened model on the meta device.
        notes: Sentences for the user.
        kept: What keeps the function, under ``init="preserve"``.
    """

    edits: tuple[Edit, ...]
    graph: WidthGraph
    module: nn.Module
    notes: tuple[str, ...]
    kept: Kept


def widen(meta: nn.Module, inputs: Any, factor_squared: Fraction, options: TransformOptions) -> Widened:
    """Multiply the hidden widths of ``meta`` by k.

    Args:
        meta: The model on the meta device.
        inputs: Its example inputs there.
        factor_squared: k², exact.
        options: ``multiple`` and ``init`` are looked at.

    Raises:
        PlanError: A width is fixed by a literal in the model's code, or ``init`` does not fit the model.
        Infeasible: The relations between widths have no integer solution near k, or no width would change.
        UnsupportedOp: The forward pass cannot be traced.
    """
    graph = trace_widths(meta, inputs)
    _check(meta, graph, options)
    sizes = solve_widths(
        graph, factor_squared, multiple=options.multiple, given=_given(meta, graph, options),
        down=options.pattern != "unstructured",
    )  # fmt: skip
    preserve = options.init == "preserve"
    if preserve:
        check_layout(graph, sizes)
    edits: list[Edit] = list(_resizes(meta, graph, sizes, in_parts=preserve))
    _check_size(meta, edits)
    resized, _ = apply_edits(meta, edits)
    became: dict[int, set[int]] = defaultdict(set)
    for index, new in sizes.items():
        became[graph.groups[index].size].add(new)
    changes = prove_config(meta, resized, became)
    resizes = edits
    edits = _sized(meta, resized, graph, sizes, edits, changes, preserve)
    module, _ = apply_edits(meta, edits)
    before, after = output_shapes(meta, inputs), output_shapes(module, inputs)
    if before != after:
        raise PlanError(
            f"widened, the model would return {after} and not {before}: one of its sizes follows from a width unseen",
            hint="keep part of it with --keep, or say what follows with --layer-width",
        )
    kept = Kept()
    if preserve:
        kept = keep(meta, module, inputs, graph, edits, approximate=options.allow_approximate)
        if changes and kept.attributes:
            told = prove_attributes(meta, changes, kept.attributes)
            if told is None:  # its configuration cannot say so, so the model leaves it
                edits = _sized(meta, resized, graph, sizes, resizes, None, preserve)
                edits += kept.attributes
            else:
                edits = _sized(meta, resized, graph, sizes, resizes, told, preserve)
        else:
            edits += kept.attributes
            edits += _scaled_attention(meta, graph, sizes, kept)
        module, _ = apply_edits(meta, edits)
    return Widened(tuple(edits), graph, module, tuple(_notes(graph, edits)), kept)


def _sized(
    meta: nn.Module,
    resized: nn.Module,
    graph: WidthGraph,
    sizes: Mapping[int, int],
    resizes: Sequence[Edit],
    changes: Changes | None,
    preserve: bool,
) -> list[Edit]:
    """The edits after which the resized model runs: by its configuration, or attribute by attribute."""
    if not changes:
        attributes = [] if preserve else list(_computed(meta, graph, sizes))
        return [*resizes, *_attributes(meta, resized, graph, sizes), *attributes]
    # The model's own constructor then says what follows from the widths: attributes, scales, tables of rotations.
    stored = meta.state_dict()
    return [*(edit for edit in resizes if getattr(edit, "tensor", None) in stored), SetConfig(changes)]


def _scaled_attention(
    meta: nn.Module, graph: WidthGraph, sizes: Mapping[int, int], kept: Kept
) -> Iterator[SetAttribute]:
    """Scales of attention that a module has as an attribute, while the kernel that runs takes its own: queries make up
    for that one, and other kernels read the attribute."""
    for edit in _computed(meta, graph, sizes):
        if edit.new < 1 and any(one.tensor.startswith(f"{edit.module}.") for one in kept.scales):
            yield edit


def _notes(graph: WidthGraph, edits: Sequence[Edit]) -> Iterator[str]:
    for text in graph.not_understood:
        yield f"a relation between sizes was not understood: {text}"
    for group in graph.literals:
        yield f"{_named(group)} stays {group.size}: {_reason(group)}"
    for edit in edits:
        if isinstance(edit, SetConfig):
            yield "the configuration says so too: " + ", ".join(f"{k} {new}" for k, (_, new) in edit.changes.items())
    computed: dict[tuple[str, float, float], list[str]] = defaultdict(list)
    for edit in edits:
        if isinstance(edit, SetAttribute) and isinstance(edit.old, float):
            computed[edit.attribute, edit.old, edit.new].append(edit.module)
    for (attribute, old, new), modules in computed.items():
        where = modules[0] + (f" and {len(modules) - 1} more modules" if len(modules) > 1 else "")
        yield f"{attribute} of {where} follows a width, from {old:.6g} to {new:.6g}"


def _named(group: WidthGroup) -> str:
    return " and ".join(f"{axis.tensor} axis {axis.axis}" for axis in group.axes[:2])


def _reason(group: WidthGroup) -> str:
    frame = group.frame
    if group.face is Face.TIED:
        return f"it is tied to a size that stays, at {frame}" if frame else "it is tied to a size that stays"
    if frame is not None and frame.fixed and frame.operator:
        return f"{frame.operator.removeprefix('aten.').partition('.')[0]} at {frame} makes a number of it"
    return f"it is fixed by a literal at {frame}"


def _given(module: nn.Module, graph: WidthGraph, options: TransformOptions) -> dict[int, int]:
    """Index of a group → its size, where ``layer_width`` decides it."""
    given: dict[int, int] = {}
    places = {axis: index for index, group in enumerate(graph.groups) for axis in group.axes}
    unmatched = {override.text for override in options.widths}
    for path, child in module.named_modules():
        override = next((one for one in options.widths if one.matches(path)), None)
        if override is None or f"{path}.weight" not in graph.roles:
            continue
        unmatched.discard(override.text)
        index = places.get(Axis(f"{path}.weight", output_axis(child)))
        if index is None or not graph.groups[index].scales:
            raise PlanError(f"the output width of {path} does not scale, so it cannot be {override.value}")
        if override.value < graph.groups[index].size:
            raise PlanError(
                f"the output width of {path} is {graph.groups[index].size} and cannot shrink to {override.value}"
            )
        if given.setdefault(index, override.value) != override.value:
            raise PlanError(f"the output width of {path} cannot be {given[index]} and {override.value}")
    if unmatched:
        raise PlanError(f"no layer matches {min(unmatched)!r}")
    return given


def _check_size(module: nn.Module, edits: Sequence[Edit]) -> None:
    if not edits:
        raise Infeasible("wide", "the model", "a width that grows", "widths that round to what they are",
                         hint="raise --sparsity")  # fmt: skip
    shapes = {name: list(parameter.shape) for name, parameter in module.named_parameters()}
    for edit in edits:
        if isinstance(edit, ResizeAxis) and edit.tensor in shapes:
            shapes[edit.tensor][edit.axis] = edit.new
    weights = sum(math.prod(shape) for shape in shapes.values())
    if weights > MAX_WEIGHTS:
        raise Infeasible("wide", "the model", f"{4 * weights / 1e9:,.0f} GB for its dense tensors",
                         f"a limit of {4 * MAX_WEIGHTS / 1e9:.0f} GB", hint="lower --sparsity")  # fmt: skip


def _check(module: nn.Module, graph: WidthGraph, options: TransformOptions) -> None:
    for group in () if options.allow_partial else graph.literals:
        raise PlanError(
            f"cannot widen {_named(group)} ({group.size}): {_reason(group)}",
            hint="compute the size from the tensor there (x.flatten(1) instead of x.view(-1, 400)), or pass "
            "--allow-partial to leave it as it is",
        )


def _resizes(module: nn.Module, graph: WidthGraph, sizes: Mapping[int, int], *, in_parts: bool) -> Iterator[Edit]:
    filled_by_type = {
        f"{path}.{key}" if path else key
        for path, child in module.named_modules()
        if isinstance(child, nn.modules.batchnorm._NormBase)
        for key in child._buffers
    }
    buffers = {name for name, _ in module.named_buffers()} - filled_by_type
    for index, new in sizes.items():
        group = graph.groups[index]
        for axis in group.axes:
            if new != group.size:
                yield ResizeAxis(axis.tensor, axis.axis, group.size, new, (group.parts or 1) if in_parts else 1)
                if axis.tensor in buffers:
                    yield FillTensor(axis.tensor, "repeat", grown_axis=axis.axis)


def _attributes(
    module: nn.Module, wide: nn.Module, graph: WidthGraph, sizes: Mapping[int, int]
) -> Iterator[SetAttribute]:
    """Attributes that the forward pass uses, and those that only repeat a size for people and tools."""
    changed = {
        attribute: new
        for index, new in sizes.items()
        for attribute in graph.groups[index].attributes
        if graph.groups[index].face is not Face.FREE
    }
    for path, child in wide.named_modules():
        changed |= {Attribute(path, name): size for name, size in _repeated(path, child, changed)}
    changed |= dict(_told(graph, sizes))
    modules = dict(module.named_modules())
    for attribute, new in changed.items():
        old = _get(modules[attribute.module], attribute)
        if old != new:
            yield SetAttribute(attribute.module, attribute.name, old, new, attribute.element)


#: What models tell about their width and do not use in their forward pass: timm's ``reset_classifier`` does.
_TOLD = frozenset({"num_features", "head_hidden_size", "inplanes", "embed_dim"})


def _told(graph: WidthGraph, sizes: Mapping[int, int]) -> Iterator[tuple[Attribute, int]]:
    """Such attributes, where all widths of that size become the same."""
    became: dict[int, set[int]] = defaultdict(set)
    for index, group in enumerate(graph.groups):
        if group.axes:
            became[group.size].add(sizes.get(index, group.size))
    for group in graph.groups:
        for attribute in group.attributes:
            if group.face is Face.FREE and attribute.name in _TOLD and len(became[group.size]) == 1:
                yield attribute, next(iter(became[group.size]))


def _get(module: nn.Module, attribute: Attribute) -> int:
    found: Any = module
    for name in attribute.name.split("."):
        found = getattr(found, name)
    return found if attribute.element is None else found[attribute.element]  # type: ignore[no-any-return]


def _repeated(path: str, child: nn.Module, changed: Mapping[Attribute, int]) -> Iterator[tuple[str, int]]:
    """Attributes in which PyTorch's own modules repeat the shape of their weight."""
    weight = child._parameters.get("weight")
    match child:
        case nn.modules.conv._ConvNd():
            groups = changed.get(Attribute(path, "groups"), child.groups)
            first, second = (1, 0) if child.transposed else (0, 1)
            yield "out_channels", child.weight.shape[first] * (groups if child.transposed else 1)
            yield "in_channels", child.weight.shape[second] * (1 if child.transposed else groups)
        case nn.Linear():
            yield "out_features", child.weight.shape[0]
            yield "in_features", child.weight.shape[1]
        case nn.Embedding():
            yield "embedding_dim", child.weight.shape[1]
        case nn.modules.batchnorm._NormBase() if weight is not None:
            yield "num_features", weight.shape[0]
        case nn.GroupNorm() if weight is not None:
            yield "num_channels", weight.shape[0]
        case nn.MultiheadAttention():
            yield "embed_dim", child.out_proj.weight.shape[0]
            yield "head_dim", child.out_proj.weight.shape[1] // child.num_heads
            yield "kdim", (child.in_proj_weight if child._qkv_same_embed_dim else child.k_proj_weight).shape[1]
            yield "vdim", (child.in_proj_weight if child._qkv_same_embed_dim else child.v_proj_weight).shape[1]
        case nn.RNNBase():
            shapes = {name: tuple(parameter.shape) for name, parameter in child.named_parameters(recurse=False)}
            yield "input_size", shapes["weight_ih_l0"][1]
            yield "hidden_size", shapes["weight_hh_l0"][0] // _GATES[child.mode]
            if child.proj_size:
                yield "proj_size", shapes["weight_hr_l0"][0]


_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def _computed(module: nn.Module, graph: WidthGraph, sizes: Mapping[int, int]) -> Iterator[SetAttribute]:
    """Numbers that a constructor computed from a width: its square root or the inverse of that, as attention and
    embeddings are scaled by. Recognised by value, among the widths that the module itself deals with."""
    near: dict[str, dict[int, int]] = defaultdict(dict)
    for index, new in sizes.items():
        group = graph.groups[index]
        for axis in group.axes:
            path = axis.tensor.rpartition(".")[0]
            for place in (path, path.rpartition(".")[0]):  # of its own parameters, and of its layers'
                near[place].setdefault(group.size, new)
        for attribute in group.attributes:
            near[attribute.module].setdefault(group.size, new)
    for path, child in module.named_modules():
        widths = dict(near[path])
        for heads in {
            value for name, value in child.__dict__.items() if "head" in name and type(value) is int and value
        }:
            for old, new in list(widths.items()):
                if old % heads == new % heads == 0:
                    widths.setdefault(old // heads, new // heads)
        for name, value in child.__dict__.items():
            if type(value) is not float or name.startswith("_"):
                continue
            for old, new in widths.items():
                for power in (0.5, -0.5):
                    if old > 1 and old != new and math.isclose(value, old**power, rel_tol=1e-9):
                        yield SetAttribute(path, name, value, new**power)
                        break
                else:
                    continue
                break
