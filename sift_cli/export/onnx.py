"""ONNX: masked convolutions and linear layers become sift's operators, together with what stands behind them; each has
a standard function as its fallback."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter import onnx_fusions
from torch import nn
from torch.nn import functional as F

from sift_cli import __version__, registry
from sift_cli.core.masks import Mask
from sift_cli.core.operators import DOMAIN
from sift_cli.errors import ExportError
from sift_cli.export import fallback
from sift_cli.export.arranging import arrange
from sift_cli.export.fusion import fuse
from sift_cli.export.layer_plans import Decide, LayerPlans, by_estimate, keep_dense, set_plans
from sift_cli.models.calling import Inputs, call, map_inputs, named, names_of, own_buffers, primary, tensors_of
from sift_cli.models.ties import tied

#: The newest opset and IR version that onnxruntime 1.17, the oldest one with the API sift's library needs, can load.
OPSET = 20
#: The fallback functions need BitwiseAnd, the exporter ends at 23.
OLDEST_OPSET, NEWEST_OPSET = 18, 23
IR_VERSION = 9


def to_onnx(
    module: nn.Module,
    inputs: Inputs,
    masks: Mapping[str, Mask],
    metadata: Mapping[str, str],
    *,
    opset: int = OPSET,
    any_length: bool = False,
    decide: Decide | None = None,
) -> onnx.ModelProto:
    """Export ``module`` in eval mode, with a dynamic batch axis.

    The graph's outputs are those that a user means (:func:`~sift_cli.models.calling.primary`), called ``output``. Its
    inputs have their keywords for names, or are called ``input``; several of either are numbered.

    Args:
        module: The model; left as it is.
        inputs: Example inputs, batch first.
        masks: Masks by weight name. A masked 2-D convolution or linear layer becomes a sift operator, or a standard
            one whose weight is stored sparse; a masked weight of another kind stays dense.
        metadata: Written into the model's ``metadata_props``.
        opset: Version of the standard operators, 18 to 23.
        any_length: Make the length of token inputs dynamic too, where the model's code allows it; :func:`lengths` has
            the names of the axes. Where it does not, sift's logger says so.
        decide: Which layers become sift operators; None estimates where that is faster.

    Returns:
        The model, weights inside.

    Raises:
        ExportError: The exporter does not support the model, or the opset is not among those.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ExportError(f"opset {opset} is outside {OLDEST_OPSET} … {NEWEST_OPSET}", hint=f"leave it out for {OPSET}")
    with own_buffers(module), _quiet("torch.onnx", "onnxscript"):
        model = _export(module, inputs, opset, lengths(inputs) if any_length else {}).model
        _name_once(model.graph, tied(module, preferred=masks))
        _lower(model, masks, after_optimizer=False)
        _optimize(model)
    _lower(model, masks, after_optimizer=True)
    _drop_unused(model.graph)
    _forget_sources(model)
    lowered = ir.to_proto(model)
    lowered.ir_version = IR_VERSION if opset <= OPSET else lowered.ir_version
    lowered.producer_name, lowered.producer_version = "sift", __version__
    onnx.helper.set_model_props(lowered, dict(metadata))
    if not masks:
        return lowered
    sparse = _finished(lowered, LayerPlans(), opset)
    decided = (decide or estimating(inputs))(sparse)
    if decided.dense or decided.plans:
        sparse = _finished(lowered, decided, opset)
    arrange(sparse)
    return sparse


def estimating(inputs: Inputs, least: float | None = None) -> Decide:
    """Decide about layers by estimates for ``inputs``, or by the share ``least`` of zeros alone."""
    return by_estimate(least, {"batch": tensors_of(inputs)[0].shape[0], **lengths(inputs)})


def _finished(lowered: onnx.ModelProto, decided: LayerPlans, opset: int) -> onnx.ModelProto:
    """``lowered``, in which all layers are sparse that can be, as it was ``decided``."""
    model = ir.from_proto(lowered)
    keep_dense(model, decided.dense)
    fuse(model)
    set_plans(model, decided.plans)
    _drop_unused(model.graph)
    proto = ir.to_proto(model)
    used = {node.op_type for node in proto.graph.node if node.domain == DOMAIN}
    if used:
        del proto.functions[:]
        proto.functions.extend(fallback.functions(used, opset))
    return proto


def lengths(inputs: Inputs) -> dict[str, int]:
    """Names and sizes of the length axes of token inputs; those of one size are one axis."""
    sizes = dict.fromkeys(t.shape[1] for t in tensors_of(inputs) if is_tokens(t, t.shape) and t.shape[1] > 1)
    return {f"length_{number}" if number else "length": size for number, size in enumerate(sizes)}


def is_tokens(tensor: torch.Tensor, lengths: Collection[int]) -> bool:
    """Whether an input is tokens, one a position, of one of these lengths."""
    return tensor.dim() == 2 and not tensor.is_floating_point() and tensor.shape[1] in lengths


def _export(module: nn.Module, inputs: Inputs, opset: int, lengths: Mapping[str, int]) -> torch.onnx.ONNXProgram:
    # A batch of one would be taken for a constant.
    examples = map_inputs(lambda tensor: torch.cat([tensor, tensor]) if tensor.shape[0] == 1 else tensor, inputs)
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            output = call(module.forward, inputs)  # and not the module, which would not keep what is made once
        outputs = len(primary(output))
        if not outputs:
            raise ExportError(
                f"the model returns a {type(output).__name__} without a tensor",
                hint="wrap it in a module that returns the tensor you want",
            )
        with _by_position(module, names_of(inputs)):
            try:
                return _program(module, examples, opset, outputs, lengths)
            except Exception:
                if not lengths:
                    raise
                logging.getLogger("sift").warning("the lengths of the model's inputs are fixed in the export")
                return _program(module, examples, opset, outputs, {})
    except ExportError:
        raise
    except Exception as error:  # the exporter raises whatever the model's code raises
        root = error
        while root.__cause__ is not None:  # what it says itself is advice for its own developers
            root = root.__cause__  # type: ignore[assignment]
        reason = str(root).strip().splitlines()
        raise ExportError(
            f"torch.onnx.export does not support this model: {reason[0] if reason else type(root).__name__}"
        ) from error
    finally:
        for child, mode in modes.items():
            child.training = mode


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Without the warnings of these loggers: what the exporter could not do better is no news to a user."""
    levels = [(logger := logging.getLogger(name), logger.level) for name in names]
    try:
        for logger, _ in levels:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)


def _program(
    module: nn.Module, inputs: Inputs, opset: int, outputs: int, lengths: Mapping[str, int]
) -> torch.onnx.ONNXProgram:
    """``module``, which takes and returns tensors by position, as the exporter translates it."""
    batch = torch.export.Dim("batch")
    axes = {size: torch.export.Dim(name, min=2) for name, size in lengths.items()}
    shapes = tuple(
        {0: batch, 1: axes[tensor.shape[1]]} if is_tokens(tensor, axes) else {0: batch} for tensor in tensors_of(inputs)
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad(), _one_batch_axis():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tensors_of(inputs),
            dynamo=True,
            optimize=False,
            opset_version=opset,
            input_names=list(names_of(inputs) or _numbered("input", len(inputs))),
            output_names=_numbered("output", outputs),
            dynamic_shapes=(shapes,),
            verbose=False,
        )
    assert program is not None
    return program


@contextlib.contextmanager
def _one_batch_axis() -> Iterator[None]:
    """Attention over several batch axes (windows of an image) as over one: the exporter knows of one.

    The function is replaced, as a mode that sees every function doubles the time of an export.
    """
    attention = F.scaled_dot_product_attention

    def flat(query: Any, key: Any, value: Any, attn_mask: Any = None, *rest: Any, **named: Any) -> torch.Tensor:
        batch = query.shape[:-3]
        if len(batch) > 1:
            if attn_mask is not None:
                attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2]).flatten(0, -4)
            query, key, value = (tensor.flatten(0, -4) for tensor in (query, key, value))
        result = attention(query, key, value, attn_mask, *rest, **named)
        return result.unflatten(0, batch) if len(batch) > 1 else result

    F.scaled_dot_product_attention = flat  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = attention


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{index}" for index in range(count)]


@contextlib.contextmanager
def _by_position(module: nn.Module, names: tuple[str, ...] | None) -> Iterator[None]:
    """Let ``module`` take its inputs by position and return a tensor or a tuple of them.

    Its own ``forward`` is shadowed, and not the module wrapped: a wrapper's name would be in front of all weights'.
    """
    forward = module.forward

    def flat(*tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs = primary(call(forward, named(names, tensors)))
        return outputs[0] if len(outputs) == 1 else outputs

    shadowed = module.__dict__.get("forward")
    module.__dict__["forward"] = flat
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if shadowed is not None:
            module.__dict__["forward"] = shadowed


def _name_once(graph: ir.Graph, ties: Mapping[str, str]) -> None:
    """Let tied weights have the name that the masks have for them; the exporter chooses any."""
    for name, stored in ties.items():
        value = graph.initializers.pop(name, None)
        if value is None:
            continue
        if stored in graph.initializers:
            ir.convenience.replace_all_uses_with(value, graph.initializers[stored])
        else:
            value.name = stored
            graph.register_initializer(value)


def _optimize(model: ir.Model) -> None:
    """What torch's exporter does to optimize, but for two things that lose weights.

    It makes one of equal constants, and two weights that start as zeros are two, each with a mask of its own. And it
    computes what a layer makes of constants, a table of coordinates say, which onnxruntime does just as well.
    """
    optimizer.inline(model)
    for _ in range(2):
        optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=_unless_a_layer)
        rewriter.rewrite(model)
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
    onnx_fusions.fuse(model)


def _unless_a_layer(node: ir.Node) -> bool | None:
    return False if node.op_type in ("Conv", "Gemm", "MatMul") else None


def _lower(model: ir.Model, masks: Mapping[str, Mask], *, after_optimizer: bool) -> None:
    lowerings = [
        lowering
        for lowering in registry.discover("sift_cli.export.lowering").values()
        if after_optimizer == lowering.AFTER_OPTIMIZER
    ]
    graph = model.graph
    for node in list(graph):
        for lowering in lowerings:
            weight = lowering.weight_of(node)
            mask = masks.get(weight.name) if weight is not None else None
            if mask is None:
                continue
            new = lowering.lower(graph, node, weight, mask)
            ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
            model.opset_imports[DOMAIN] = 1
            break


def _drop_unused(graph: ir.Graph) -> None:
    """Dense weights that nothing reads any more. The optimizer ran before the last of them were replaced."""
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _forget_sources(model: ir.Model) -> None:
    """Drop what the exporter notes about the Python code: paths of the machine that exported have no place in a
    model."""
    graph = model.graph
    model.metadata_props.clear()
    graph.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
