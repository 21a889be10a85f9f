"""An ONNX graph made ready for counting: functions inlined, dimensions bound, every shape inferred, no weight loaded.

Shape inference knows neither sift's operators nor onnxruntime's fused ones. It works on a skeleton in which each of
them is replaced by a standard operator with the same output shape and the same output name, and in which a large
initializer is an input of its shape. The skeleton is thrown away; its shapes are what is kept.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference

from sift_cli.checkpoint.readers.onnx import parse
from sift_cli.core.operators import DENSE_WEIGHT, DOMAIN, OPERATORS
from sift_cli.errors import Malformed, ModelError
from sift_cli.flops.onnx_constants import folded

MICROSOFT = "com.microsoft"
# Constants that shape arithmetic reads: axes, sizes, pads; and the factors of a Resize, one an axis.
_SMALL = {TensorProto.INT64: 1024, TensorProto.INT32: 1024, TensorProto.FLOAT: 8}


@dataclass(frozen=True)
class Graph:
    """A flat graph with known shapes.

    Attributes:
        model: The model with all functions inlined but sift's; weights may lie outside of it.
        name: Its file, for messages.
        folder: Where external data is looked for.
        shapes: Shape of each value; None where inference did not find it.
    """

    model: onnx.ModelProto
    name: str
    folder: str
    shapes: Mapping[str, tuple[int, ...] | None] = field(repr=False)

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.shapes.get(name)

    def read(self, tensor: TensorProto) -> np.ndarray:
        """The data of a tensor of the model, wherever it lies.

        Raises:
            Malformed: It is missing, short, or of an unknown type.
        """
        try:
            return numpy_helper.to_array(tensor, self.folder)
        except (ValueError, TypeError, OSError, onnx.checker.ValidationError) as error:
            raise Malformed(self.name, f"tensor {tensor.name!r}", str(error)) from error


def read(source: onnx.ModelProto | str | Path, dims: Mapping[str, int]) -> Graph:
    """Open a model and infer every shape of it.

    Args:
        source: A model, or a file; data in other files is not read.
        dims: Sizes of symbolic dimensions by name. The first dimension of an input is a batch of 1 unless named here.

    Raises:
        Unreadable, Malformed: The file cannot be read, or is no ONNX model.
        ModelError: A symbolic dimension has no size, or the shapes contradict each other.
    """
    if isinstance(source, onnx.ModelProto):
        model, folder, name = source, "", source.graph.name or "the model"
    else:
        model, folder, name = parse(Path(source)), str(Path(source).parent), str(source)
    if not model.graph.node:
        raise ModelError(f"{name} has no operators to count")
    unshaped = Graph(_inlined(model), name, folder, {})
    model = unshaped.model
    skeleton = _skeleton(unshaped, _binding(model.graph, dims))
    try:
        shapes = _shapes(skeleton)
    except (shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"the shapes of {name} do not fit together: {str(error).strip().splitlines()[0]}") from error
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return replace(unshaped, shapes=shapes)


def _shapes(skeleton: onnx.ModelProto) -> dict[str, tuple[int, ...] | None]:
    """Shapes of all values, by rounds: a shape that one has found is what the next does arithmetic on."""
    graph, opset = skeleton.graph, next((item.version for item in skeleton.opset_import if not item.domain), 20)
    inputs = {value.name: _fixed_shape(value.type) for value in graph.input}
    found, before, known = inputs, -1, 0
    while before < known < len(inputs) + sum(len(node.output) for node in graph.node):
        sizes = {name: shape for name, shape in found.items() if shape is not None}
        nodes = list(folded(graph.node, sizes, graph.initializer, opset))
        del graph.node[:]
        graph.node.extend(nodes)
        inferred = shape_inference.infer_shapes(skeleton, strict_mode=True).graph
        found = inputs | {value.name: _fixed_shape(value.type) for value in inferred.value_info}
        before, known = known, sum(shape is not None for shape in found.values())
    return found


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def domain(written: str) -> str:
    """A domain of operators, "" for the standard one, which has two spellings."""
    return "" if written == "ai.onnx" else written


def weight_shape(node: onnx.NodeProto) -> tuple[int, ...]:
    """The dense shape of a sift operator's weight.

    Raises:
        ModelError: The node does not say, or breaks the operator's contract (docs/runtime.md) where counting needs it.
    """
    shape = attribute(node, "weight_shape")
    if not shape or min(shape) < 1 or max(shape) >= 2**31:
        raise ModelError(f"{node.op_type} {node.name!r} has no usable attribute weight_shape: {shape}", node=node.name)
    if len(node.input) < (2 if node.op_type == DENSE_WEIGHT else 3):
        raise ModelError(f"{node.op_type} {node.name!r} lacks its bitmask or its values", node=node.name)
    if attribute(node, "group", 1) < 1 or min(attribute(node, "strides", [1])) < 1:
        raise ModelError(f"{node.op_type} {node.name!r} has a group or a stride below 1", node=node.name)
    return tuple(shape)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    ours = [(DOMAIN, name) for name in (*OPERATORS, DENSE_WEIGHT)]
    if all((function.domain, function.name) in ours for function in model.functions):
        return model
    return inliner.inline_selected_functions(model, ours, exclude=True)


def _binding(graph: onnx.GraphProto, dims: Mapping[str, int]) -> dict[str, int]:
    """Sizes of all symbolic dimensions of the inputs."""
    bound = dict(dims)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    symbols = {dim.dim_param for value in inputs for dim in value.type.tensor_type.shape.dim} - {""}
    for name in sorted(set(dims) - symbols):
        hint = f"it has {', '.join(sorted(symbols))}" if symbols else "all its dimensions have fixed sizes"
        raise ModelError(f"the model's inputs have no dimension {name!r}", hint=hint, dim=name)
    for value in inputs:
        batch = value.type.tensor_type.shape.dim[:1]
        if batch and batch[0].dim_param:
            bound.setdefault(batch[0].dim_param, 1)
    for value in inputs:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if axis and not _is_fixed(dim) and dim.dim_param not in bound:
                name = dim.dim_param
                size = f"--dim {shlex.quote(f'{name}=128')}"
                hint = f"give it a size: {size}" if name else "give the dimension a name in the model"
                where = f"axis {axis} of input {value.name!r}"
                raise ModelError(f"dimension {name or '?'} ({where}) has no size", hint=hint, dim=name)
    return bound


def _skeleton(whole: Graph, binding: Mapping[str, int]) -> onnx.ModelProto:
    model, source = whole.model, whole.model.graph
    stored = {tensor.name for tensor in source.initializer}
    inputs, initializers = [], []
    for tensor in source.initializer:
        if math.prod(tensor.dims) > _SMALL.get(tensor.data_type, -1):
            inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            initializers.append(numpy_helper.from_array(whole.read(tensor), tensor.name))
    for sparse in source.sparse_initializer:
        values = sparse.values
        inputs.append(helper.make_tensor_value_info(values.name, values.data_type, list(sparse.dims)))
    for value in source.input:
        if value.name not in stored:
            inputs.append(_bound(value, binding, batch=True))
    nodes = [replacement for node in source.node for replacement in _standard(node, inputs)]
    # Shapes that a file declares go stale when somebody edits its batch: believed only where nothing else is known.
    opaque = {name for node in nodes if domain(node.domain) for name in node.output}
    declared = [_bound(value, binding, batch=False) for value in (*source.value_info, *source.output)]
    known = [value for value in declared if value.name in opaque and _fixed_shape(value.type) is not None]
    graph = helper.make_graph(nodes, "skeleton", inputs, [], initializers, value_info=known)
    imports = {domain(opset.domain): opset.version for opset in model.opset_import}
    for node in graph.node:
        node.domain = domain(node.domain)
    missing = {node.domain for node in graph.node} - imports.keys()
    imports.update({name: 1 if name else onnx.defs.onnx_opset_version() for name in missing})
    opsets = [helper.make_opsetid(name, version) for name, version in imports.items()]
    return helper.make_model(graph, ir_version=max(model.ir_version, 4), opset_imports=opsets)


def _bound(value: onnx.ValueInfoProto, binding: Mapping[str, int], *, batch: bool) -> onnx.ValueInfoProto:
    """``value`` with sizes for its symbolic dimensions; a nameless first dimension of an input is a batch of 1."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    for axis, dim in enumerate(copy.type.tensor_type.shape.dim):
        if dim.dim_param in binding:
            dim.dim_value = binding[dim.dim_param]
        elif dim.dim_param:
            dim.ClearField("dim_param")
        elif batch and axis == 0 and not _is_fixed(dim):
            dim.dim_value = 1
        elif not _is_fixed(dim):
            dim.ClearField("dim_value")
    return copy


def _is_fixed(dim: onnx.TensorShapeProto.Dimension) -> bool:
    """Whether a dimension has a size. Paddle and old exporters write -1 for one that is open."""
    return bool(dim.HasField("dim_value")) and dim.dim_value >= 0


def _fixed_shape(kind: onnx.TypeProto) -> tuple[int, ...] | None:
    tensor = kind.tensor_type
    if not tensor.HasField("shape") or not all(_is_fixed(dim) for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _standard(node: onnx.NodeProto, inputs: list[onnx.ValueInfoProto]) -> Iterable[onnx.NodeProto]:
    """``node``, or standard nodes with the same outputs. A weight that only exists packed becomes one of ``inputs``."""
    rule = _RULES.get((domain(node.domain), node.op_type))
    return rule(node, inputs) if rule else (node,)


def _sparse_conv(node: onnx.NodeProto, inputs: list[onnx.ValueInfoProto]) -> Iterable[onnx.NodeProto]:
    shape = weight_shape(node)
    weight = f"{node.output[0]}/weight"
    inputs.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, shape))
    conv = helper.make_node("Conv", [node.input[0], weight], node.output, kernel_shape=shape[2:])
    conv.attribute.extend(a for a in node.attribute if a.name in ("strides", "pads", "dilations", "group", "auto_pad"))
    return (conv,)


def _sparse_linear(node: onnx.NodeProto, inputs: list[onnx.ValueInfoProto]) -> Iterable[onnx.NodeProto]:
    outputs, width = weight_shape(node)
    weight = f"{node.output[0]}/weight"
    inputs.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, (width, outputs)))
    return (helper.make_node("MatMul", [node.input[0], weight], node.output),)


def _dense_weight(node: onnx.NodeProto, inputs: list[onnx.ValueInfoProto]) -> Iterable[onnx.NodeProto]:
    inputs.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, weight_shape(node)))
    return ()


def _fused(op: str, attributes: tuple[str, ...]) -> Callable[..., Iterable[onnx.NodeProto]]:
    """An operator of onnxruntime that is a standard one and an activation."""

    def rule(node: onnx.NodeProto, inputs: list[onnx.ValueInfoProto]) -> Iterable[onnx.NodeProto]:
        plain = helper.make_node(op, node.input[:3], node.output[:1])
        plain.attribute.extend(a for a in node.attribute if a.name in attributes)
        return (plain,)

    return rule


def _fused_matmul(node: onnx.NodeProto, inputs: list[onnx.ValueInfoProto]) -> Iterable[onnx.NodeProto]:
    left = "...ki" if attribute(node, "transA") else "...ik"
    right = "...jk" if attribute(node, "transB") else "...kj"
    return (helper.make_node("Einsum", node.input[:2], node.output, equation=f"{left},{right}->...ij"),)


def _attention_with_weights(node: onnx.NodeProto, inputs: list[onnx.ValueInfoProto]) -> Iterable[onnx.NodeProto]:
    packed = f"{node.output[0]}/packed"
    project = helper.make_node("MatMul", node.input[:2], [packed])
    parts = [node.output[0], f"{packed}/1", f"{packed}/2"]
    return project, helper.make_node("Split", [packed], parts, axis=-1, num_outputs=3)


def _multi_head_attention(node: onnx.NodeProto, inputs: list[onnx.ValueInfoProto]) -> Iterable[onnx.NodeProto]:
    if len(node.input) < 3:
        return (node,)
    return (helper.make_node("Einsum", [node.input[0], node.input[2]], node.output[:1], equation="bqd,bkv->bqv"),)


def _same_shape(node: onnx.NodeProto, inputs: list[onnx.ValueInfoProto]) -> Iterable[onnx.NodeProto]:
    return (helper.make_node("Identity", node.input[:1], node.output[:1]),)


_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_SAME_SHAPE = """
    BiasGelu BiasSoftmax FastGelu Gelu QuickGelu RotaryEmbedding SimplifiedLayerNormalization
    SkipLayerNormalization SkipSimplifiedLayerNormalization
"""
_RULES: dict[tuple[str, str], Callable[..., Iterable[onnx.NodeProto]]] = {
    **{
        (DOMAIN, name): _sparse_conv if operator.layer == "Conv" else _sparse_linear
        for name, operator in OPERATORS.items()
    },
    (DOMAIN, DENSE_WEIGHT): _dense_weight,
    (MICROSOFT, "FusedConv"): _fused("Conv", _WINDOW),
    (MICROSOFT, "FusedGemm"): _fused("Gemm", ("transA", "transB")),
    (MICROSOFT, "FusedMatMul"): _fused_matmul,
    (MICROSOFT, "Attention"): _attention_with_weights,
    (MICROSOFT, "MultiHeadAttention"): _multi_head_attention,
    **{(MICROSOFT, op): _same_shape for op in _SAME_SHAPE.split()},
}
