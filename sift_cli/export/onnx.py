"""ONNX: masked convolutions and linear layers become sift's operators, each with a standard function as its
fallback."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping

import onnx
import onnx_ir as ir
import torch
from torch import nn

from sift_cli import __version__, registry
from sift_cli.core.masks import Mask
from sift_cli.errors import ExportError
from sift_cli.export import fallback
from sift_cli.export.lowering._sparse import DOMAIN

#: The newest opset and IR version that onnxruntime 1.17, the oldest one with the API sift's library needs, can load.
OPSET = 20
#: The fallback functions need BitwiseAnd, the exporter ends at 23.
OLDEST_OPSET, NEWEST_OPSET = 18, 23
IR_VERSION = 9


def to_onnx(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    masks: Mapping[str, Mask],
    metadata: Mapping[str, str],
    *,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Export ``module`` in eval mode, with a dynamic batch axis.

    Args:
        module: The model; left as it is.
        inputs: Example inputs, batch first.
        masks: Masks by weight name. Each masked 2-D convolution and linear layer becomes a sift operator; a masked
            weight of another kind stays dense.
        metadata: Written into the model's ``metadata_props``.
        opset: Version of the standard operators, 18 to 23.

    Returns:
        The model, weights inside.

    Raises:
        ExportError: The exporter does not support the model, or the opset is not among those.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ExportError(f"opset {opset} is outside {OLDEST_OPSET} … {NEWEST_OPSET}", hint=f"leave it out for {OPSET}")
    program = _export(module, inputs, opset)
    _lower(program.model, masks, after_optimizer=False)
    program.optimize()
    _lower(program.model, masks, after_optimizer=True)
    _drop_unused(program.model.graph)
    _forget_sources(program.model)
    proto = ir.to_proto(program.model)
    used = {node.op_type for node in proto.graph.node if node.domain == DOMAIN}
    if used:
        del proto.functions[:]
        proto.functions.extend(fallback.functions(used, opset))
    proto.ir_version = IR_VERSION if opset <= OPSET else proto.ir_version
    proto.producer_name, proto.producer_version = "sift", __version__
    onnx.helper.set_model_props(proto, dict(metadata))
    return proto


def _export(module: nn.Module, inputs: tuple[torch.Tensor, ...], opset: int) -> torch.onnx.ONNXProgram:
    names = ["input"] if len(inputs) == 1 else [f"input_{index}" for index in range(len(inputs))]
    batch = torch.export.Dim("batch")
    # A batch of one would be taken for a constant.
    examples = tuple(torch.cat([tensor, tensor]) if tensor.shape[0] == 1 else tensor for tensor in inputs)
    modes = {child: child.training for child in module.modules()}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    module.eval()
    try:
        with torch.no_grad():
            output = module(*inputs)
        if not isinstance(output, torch.Tensor):
            raise ExportError(
                f"the model returns a {type(output).__name__} and not one tensor",
                hint="wrap it in a module that returns the tensor you want",
            )
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                optimize=False,
                opset_version=opset,
                input_names=names,
                output_names=["output"],
                dynamic_shapes=tuple({0: batch} for _ in examples),
                verbose=False,
            )
    except ExportError:
        raise
    except Exception as error:  # the exporter raises whatever the model's code raises
        reason = str(error).strip().splitlines()
        raise ExportError(
            f"torch.onnx.export does not support this model: {reason[0] if reason else type(error).__name__}"
        ) from error
    finally:
        logger.setLevel(level)
        for child, mode in modes.items():
            child.training = mode
    assert program is not None
    return program


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
