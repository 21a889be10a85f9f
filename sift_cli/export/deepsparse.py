"""A model in the form that DeepSparse 1.8, the last there is, runs on kernels of its own.

It loads opset 19, but what the exporters of its time did not write it leaves to the onnxruntime inside it: a single
ReduceMean whose axes are an input, as opset 18 has it, takes a whole ResNet-18 along, and every LayerNormalization cuts
a transformer in two. So a model is brought back to opset 17, with such operators spelled out.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.parser
from onnx import helper, inliner, numpy_helper

from sift_cli.errors import ExportError
from sift_cli.export.dense import plain
from sift_cli.export.fallback import activation

OPSET, IR_VERSION = 17, 8
_DOMAIN = "spelled"
_LAYER_NORMALIZATION = """
<domain: "spelled", opset_import: ["" : 17]>
LayerNormalization <epsilon> (x, scale, bias) => (y)
{
    mean = ReduceMean <axes = [-1]> (x)
    centred = Sub (x, mean)
    two = Constant <value_float = 2.0> ()
    squares = Pow (centred, two)
    variance = ReduceMean <axes = [-1]> (squares)
    small = Constant <value_float: float = @epsilon> ()
    positive = Add (variance, small)
    deviation = Sqrt (positive)
    normal = Div (centred, deviation)
    scaled = Mul (normal, scale)
    y = Add (scaled, bias)
}
"""
_ACTIVATION = '<domain: "spelled", opset_import: ["" : 17]> {name} (x) => (y) {{ {body} }}'
_SPELLED = {
    "LayerNormalization": _LAYER_NORMALIZATION,
    **{name: _ACTIVATION.format(name=name, body=activation(name, "x", "y")) for name in ("Gelu", "GeluTanh")},
}
#: Attributes that opsets 18 to 23 added; without them an operator does what it does where they have their usual values.
_NEWER = frozenset({"noop_with_empty_axes", "num_outputs", "saturate"})
#: Reductions whose axes became an input in opset 18. Those of ReduceSum are one since 13.
_KINDS = "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare"
_REDUCTIONS = frozenset(f"Reduce{kind}" for kind in _KINDS.split())


def for_deepsparse(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """``model`` with dense weights, fixed shapes, and in opset 17 or older.

    Args:
        model: Any model, its data inside; left as it is.
        shapes: Shape of each input: what is symbolic in the model DeepSparse would take for 1.

    Raises:
        ExportError: See :func:`~sift_cli.export.dense.plain`; or the model has what opset 17 lacks.
    """
    older = plain(model)
    for value in older.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    for opset in older.opset_import:
        if not opset.domain and opset.version > OPSET:
            _write_in_opset_17(older.graph)
            opset.version = OPSET
    older = _spell_out(older)
    older.ir_version = min(older.ir_version, IR_VERSION)
    version = next((opset.version for opset in older.opset_import if not opset.domain), OPSET)
    for node in older.graph.node:
        if not node.domain and not _is_known(node, version):
            raise ExportError(
                f"the model has no form for DeepSparse: {node.op_type} {node.name!r} is of an opset after {OPSET}",
                hint="give DeepSparse a file of its own: --vs deepsparse:OLDER.onnx",
            )
    return older


def _is_known(node: onnx.NodeProto, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return False
    return all(item.name in schema.attributes for item in node.attribute)


def _write_in_opset_17(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for item in [item for item in node.attribute if item.name in _NEWER]:
            node.attribute.remove(item)
        if node.op_type in _REDUCTIONS and len(node.input) > 1:
            axes = constants.get(node.input.pop())
            if axes is not None:
                node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(axes).tolist()))


def _spell_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with the operators in ``_SPELLED`` replaced by those that they are made of."""
    used = set()
    for node in model.graph.node:
        given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.domain or node.op_type not in _SPELLED or len(node.output) > 1 or given.get("axis", -1) != -1:
            continue
        if node.op_type == "LayerNormalization" and len(node.input) < 3:
            continue
        if given.get("approximate") == b"tanh":
            node.op_type = "GeluTanh"
        del node.attribute[:]
        if node.op_type == "LayerNormalization":
            node.attribute.append(helper.make_attribute("epsilon", given.get("epsilon", 1e-5)))
        node.domain = _DOMAIN
        used.add(node.op_type)
    if not used:
        return model
    model.functions.extend(onnx.parser.parse_function(_SPELLED[name]) for name in sorted(used))
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    result = inliner.inline_selected_functions(model, [(_DOMAIN, name) for name in used])
    for opset in [opset for opset in result.opset_import if opset.domain == _DOMAIN]:
        result.opset_import.remove(opset)
    return result
