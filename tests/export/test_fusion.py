"""What is fused and what is not, on graphs of a few nodes; and that no number changes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sift_cli import runtime
from sift_cli.errors import RuntimeUnavailable
from sift_cli.export import fallback
from sift_cli.export.fusion import fuse
from sift_cli.flops import count_onnx

#: A layer from x to s, and the shapes of both.
LAYERS = {
    "Conv": (
        "s = sift.SparseConv <weight_shape=[4,3,3,3], strides=[1,1], pads=[1,1,1,1], dilations=[1,1], group=1>"
        "(x, c_bits, c_values, c_bias)",
        "N,3,4,4",
        "N,4,4,4",
    ),
    "Linear": ("s = sift.SparseLinear <weight_shape=[4,6]> (x, l_bits, l_values, l_bias)", "N,L,6", "N,L,4"),
}
NUMBERS = {
    "zero": 0, "half": 0.5, "one": 1, "two": 2, "three": 3, "six": 6, "root": 2**0.5, "inverse": 0.5**0.5,
    "share": 0.044715, "pi": (2 / np.pi) ** 0.5, "steep": 1.702, "minus": -1, "tiny": 1e-8,
}  # fmt: skip
SIZES = {"N": 2, "M": 2, "L": 3, "K": 3, "NL": 6, "": 3}
SHAPES = {
    "row": (4,),
    "rows": (1, 4),
    "column": (4, 1, 1),
    "columns": (1, 4, 1, 1),
    "image": (1, 4, 4, 4),
    "deep": (1,) * 5,
}


def _arrays() -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    for name, number in NUMBERS.items():
        yield name, np.array(number, np.float32)
    for layer, weights in (("c", 4 * 27), ("l", 24), ("q", 16)):
        kept = rng.random(weights) < 0.4
        yield f"{layer}_bits", np.packbits(kept, bitorder="little")
        yield f"{layer}_values", rng.standard_normal(kept.sum()).astype(np.float32)
        yield f"{layer}_bias", rng.standard_normal(4).astype(np.float32)
    for name, shape in SHAPES.items():
        yield name, rng.standard_normal(shape).astype(np.float32)
    yield "none", np.zeros(4, np.float32)
    yield "deep_root", np.full((1,) * 5, 2**0.5, np.float32)
    for name, sizes in {"fours": [-1, 4], "sixes": [-1, 6], "batches": [2, -1, 4], "heads": [2, -1, 2, 2]}.items():
        yield name, np.array(sizes, np.int64)


ARRAYS = dict(_arrays())


def model(layer: str, tail: str, *, inputs: str = "", outputs: str = "float y", known: str = "") -> onnx.ModelProto:
    """``layer`` and what is behind it, on inputs x, r (of the shape of its sums) and ``inputs``; constants are those of
    ``ARRAYS`` that are read. ``known`` are shapes that inference does not find."""
    plain, x, s = LAYERS[layer]
    text = f"g (float[{x}] x, float[{s}] r{inputs}) => ({outputs}) <float[{s}] s{known}> {{ {plain} {tail} }}"
    return parsed(text)


def parsed(text: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 20, "sift" : 1, "com.microsoft" : 1]> {text}')
    there = {value.name for value in proto.graph.input} | {name for node in proto.graph.node for name in node.output}
    read = dict.fromkeys(name for node in proto.graph.node for name in node.input if name and name not in there)
    proto.graph.initializer.extend(numpy_helper.from_array(ARRAYS[name], name) for name in read)
    return with_functions(onnx.shape_inference.infer_shapes(proto))


def with_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    del proto.functions[:]
    proto.functions.extend(fallback.functions({n.op_type for n in proto.graph.node if n.domain == "sift"}, 20))
    return proto


def fused(proto: onnx.ModelProto) -> onnx.ModelProto:
    work = ir.from_proto(proto)
    fuse(work)
    RemoveUnusedNodesPass()(work)
    result = with_functions(ir.to_proto(work))
    onnx.checker.check_model(result)
    assert_same_numbers(proto, result)
    return result


def types(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def assert_same_numbers(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    rng = np.random.default_rng(1)
    feed = {}
    for value in before.graph.input:
        shape = [dim.dim_value or SIZES[dim.dim_param] for dim in value.type.tensor_type.shape.dim]
        feed[value.name] = rng.standard_normal(shape).astype(np.float32)
    wanted = runtime.session(before.SerializeToString(), library=False).run(None, feed)
    for library in (False, True):
        try:
            got = runtime.session(after.SerializeToString(), library=library).run(None, feed)
        except RuntimeUnavailable:
            continue  # no library here; the functions were compared
        for one, other in zip(got, wanted, strict=True):
            # Rounding of sums of 27 terms.
            np.testing.assert_allclose(one, other, rtol=0, atol=27 * 2**-23 * np.abs(other).max())


def costs(proto: onnx.ModelProto) -> tuple[int, int, dict[str, int]]:
    report = count_onnx(proto, dims={"L": 3} if "L" in str(proto.graph.input) else {})
    return report.dense, report.sparse, {entry.op: entry.times for entry in report.uncounted}


ENDS = {
    "": "y = Identity (SUM)",
    "Relu": "y = Relu (SUM)",
    "Clip": "y = Clip (SUM, zero, six)",
    "LeakyRelu": "y = LeakyRelu <alpha = 0.25> (SUM)",
    "Silu": "a = Sigmoid (SUM) y = Mul (SUM, a)",
    "Gelu": "y = Gelu (SUM)",
    "GeluTanh": 'y = Gelu <approximate = "tanh"> (SUM)',
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("add", ["", "r, s", "s, r"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_operator(layer: str, add: str, end: str) -> None:
    tail = f"sum = Add ({add}) {ENDS[end].replace('SUM', 'sum')}" if add else ENDS[end].replace("SUM", "s")
    name = f"Sparse{layer}{'Add' if add else ''}{end}"
    before = model(layer, tail)
    after = fused(before)
    assert types(after) == [name] + ["Identity"] * (not end)
    assert costs(after) == costs(before)


def orders(text: str) -> list[str]:
    """``text`` with the operands of each Add and Mul in both orders."""
    parts = re.split(r"((?:Add|Mul) \(\w+, \w+\))", text)
    swapped = [re.sub(r"(Add|Mul) \((\w+), (\w+)\)", r"\1 (\3, \2)", part) for part in parts]
    choices = [
        (part, swap) if index % 2 else (part,) for index, (part, swap) in enumerate(zip(parts, swapped, strict=True))
    ]
    return ["".join(choice) for choice in itertools.product(*choices)]


TANH = "e = Mul (d, pi) f = Tanh (e) g1 = Add (f, one)"
WRITTEN_OUT = {
    "Silu": ["a = Sigmoid (s) y = Mul (s, a)", "a = Neg (s) b = Exp (a) d = Add (b, one) y = Div (s, d)"],
    "Gelu": [
        "a = Div (s, root) b = Erf (a) d = Add (b, one) e = Mul (s, d) y = Mul (e, half)",
        "a = Mul (s, inverse) b = Erf (a) d = Add (b, one) e = Mul (s, half) y = Mul (e, d)",
        "a = Mul (s, inverse) b = Erf (a) d = Add (b, one) e = Mul (d, half) y = Mul (s, e)",
        "a = Mul (s, inverse) b = Erf (a) d = Mul (b, half) e = Add (d, half) y = Mul (s, e)",
    ],
    "GeluTanh": [
        f"a = Pow (s, three) b = Mul (a, share) d = Add (s, b) {TANH} h = Mul (s, half) y = Mul (h, g1)",
        f"a = Mul (s, s) a2 = Mul (a, s) b = Mul (a2, share) d = Add (s, b) {TANH} h = Mul (g1, half) y = Mul (s, h)",
    ],
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_an_activation_in_several_nodes(name: str) -> None:
    for text in WRITTEN_OUT[name]:
        for tail in orders(text)[:: 1 if name != "GeluTanh" else 7]:
            assert types(fused(model("Linear", tail))) == [f"SparseLinear{name}"], tail


def test_nothing_behind_an_activation_is_taken_for_a_part_of_it() -> None:
    tail = "a = Sigmoid (s) b = Mul (s, a) y = Mul (b, two)"
    assert types(fused(model("Linear", tail))) == ["SparseLinearSilu", "Mul"]


def test_a_sum_that_two_read_is_added_and_no_more() -> None:
    assert types(fused(model("Conv", "a = Add (s, r) b = Relu (a) y = Sub (b, a)"))) == ["SparseConvAdd", "Relu", "Sub"]


@pytest.mark.parametrize("tail", ["y = Relu (s)", "y = Add (s, r)", "a = Sigmoid (s) y = Mul (s, a)"])
def test_what_has_a_name_in_another_domain_is_something_else(tail: str) -> None:
    work = ir.from_proto(model("Conv", tail))
    for node in list(work.graph)[1:]:
        node.domain = "other"
    before = [node.op_type for node in work.graph]
    fuse(work)
    assert [node.op_type for node in work.graph] == before


def test_there_is_one_residual() -> None:
    tail = "a = Add (s, r) b = Exp (r) y = Add (a, b)"
    assert types(fused(model("Conv", tail))) == ["SparseConvAdd", "Exp", "Add"]


BIASES = {
    "row": ("Linear", "y = Add (s, row)"),
    "number": ("Linear", "y = Add (one, s)"),
    "column": ("Conv", "y = Add (s, column)"),
    "columns": ("Conv", "y = Add (columns, s)"),
    "twice": ("Conv", "a = Add (s, columns) y = Add (a, half)"),
    "a row with an axis before it": ("Linear", "y = Add (s, rows)"),
    "behind a residual": ("Conv", "a = Add (s, r) y = Add (a, column)"),
}


@pytest.mark.parametrize("case", BIASES)
def test_constants_go_into_the_bias(case: str) -> None:
    layer, tail = BIASES[case]
    assert types(fused(model(layer, tail))) == [f"Sparse{layer}{'Add' if 'residual' in case else ''}"]


def test_a_constant_is_the_bias_of_a_layer_without_one() -> None:
    before = model("Linear", "y = Add (s, row)")
    before.graph.node[0].input[3] = "none"
    before.graph.initializer.append(numpy_helper.from_array(ARRAYS["none"], "none"))
    assert fused(before).graph.node[0].input[3] == "row"


def test_the_bias_of_another_layer_stays() -> None:
    """A weight that two layers share has one bias; a constant behind the first is not for the second."""
    both = model(
        "Linear",
        f"a = Add (s, row) {LAYERS['Linear'][0].replace('s =', 'u =')} y = Add (a, u)",
        outputs="float y, float u",
    )
    assert types(fused(both)) == ["SparseLinear", "SparseLinear", "Add"]


OTHER_SHAPES = {
    "Conv": ["N,4,1,1", "N,4,4,1", "1,4,4,4", "M,4,4,4", "4,4,4", "1,N,4,4,4"],
    "Linear": ["N,1,4", "N,K,4", "N,?,4", "L,4", "4"],
}


@pytest.mark.parametrize(("layer", "shape"), [(layer, one) for layer, shapes in OTHER_SHAPES.items() for one in shapes])
def test_a_residual_of_another_shape_stays(layer: str, shape: str) -> None:
    """Also one that may have the same: N and M are not known to be equal, nor is an axis without a name."""
    before = model(layer, "y = Add (s, t)", inputs=f", float[{shape}] t")
    assert types(fused(before)) == [f"Sparse{layer}", "Add"]


def test_an_axis_of_which_nothing_is_known_is_equal_to_none() -> None:
    plain, *_ = LAYERS["Linear"]
    before = parsed(f"g (float[N,?,6] x, float[N,?,4] t) => (float y) {{ {plain} y = Add (s, t) }}")
    assert types(fused(before)) == ["SparseLinear", "Add"]


def test_a_layer_whose_shape_nobody_wrote_down_has_that_of_its_rows() -> None:
    plain, *_ = LAYERS["Linear"]
    before = parsed(f"g (float[N,L,6] x, float[N,L,4] t) => (float y) {{ {plain} y = Add (s, t) }}")
    assert types(fused(before)) == ["SparseLinearAdd"]


def test_a_constant_is_no_residual() -> None:
    plain, *_ = LAYERS["Conv"]
    before = parsed(f"g (float[1,3,4,4] x) => (float y) <float[1,4,4,4] s> {{ {plain} y = Add (s, image) }}")
    assert types(fused(before)) == ["SparseConv", "Add"]


STAYS = {
    "read by two": "a = Relu (s) y = Add (a, s)",
    "added to itself": "y = Add (s, s)",
    "multiplied by itself": "y = Mul (s, s)",
    "a constant of the sum's shape": "y = Add (s, image)",
    "a constant along another axis": "y = Add (s, row)",
    "a constant with more axes": "y = Add (s, deep)",
    "a limit that varies": "a = ReduceMax <keepdims = 0> (x) y = Clip (s, zero, a)",
    "another sigmoid": "a = Mul (s, steep) b = Sigmoid (a) y = Mul (s, b)",
    "a sigmoid's sum": "a = Sigmoid (s) y = Add (s, a)",
    "a sigmoid alone": "y = Sigmoid (s)",
    "the same but for large numbers": "a = Sigmoid (s) b = Mul (s, tiny) d = Add (a, b) y = Mul (s, d)",
    "the erf of another": "a = Div (r, root) b = Erf (a) d = Add (b, one) e = Mul (s, d) y = Mul (e, half)",
    "another slope": "a = Div (s, two) b = Erf (a) d = Add (b, one) e = Mul (s, d) y = Mul (e, half)",
    "half of it missing": "a = Div (s, root) b = Erf (a) d = Add (b, one) y = Mul (s, d)",
    "an operator of another domain": "y = com.microsoft.Gelu (s)",
    "a constant with more axes in between": "a = Div (s, deep_root) b = Erf (a) d = Add (b, one) e = Mul (s, d) "
    "y = Mul (e, half)",
    "a hard sigmoid": "y = HardSwish (s)",
}


@pytest.mark.parametrize("case", STAYS)
def test_what_is_something_else_stays(case: str) -> None:
    before = model("Conv", STAYS[case])
    after = fused(before)
    assert types(after) == types(before)


@pytest.mark.parametrize(
    ("tail", "name"),
    [
        ("y = Relu (s)", "SparseConv"),
        ("a = Add (s, r) y = Relu (a)", "SparseConv"),
        ("a = Sigmoid (s) y = Mul (s, a)", "SparseConv"),
    ],
)
def test_a_value_that_the_graph_returns_stays(tail: str, name: str) -> None:
    """The sum itself, or what is between it and the result."""
    before = model("Conv", tail, outputs="float y, float[N,4,4,4] s")
    assert types(fused(before)) == types(before)
    if "a =" in tail:
        after = fused(model("Conv", tail, outputs="float y, float[N,4,4,4] a"))
        assert types(after) == (["SparseConvAdd", "Relu"] if "Add" in tail else types(before))


def test_a_value_that_a_branch_reads_stays() -> None:
    branches = "then_branch = g1 () => (float u) { u = Relu (s) }, else_branch = g2 () => (float u) { u = Neg (s) }"
    before = model("Conv", f"a = ReduceMax <keepdims = 0> (x) b = Greater (a, one) y = If (b) <{branches}>")
    assert types(fused(before)) == types(before)
    for only in ("u = Relu (s)", "t = Sigmoid (s) u = Mul (s, t)"):
        branches = f"then_branch = g1 () => (float u) {{ {only} }}, else_branch = g2 () => (float u) {{ u = Neg (r) }}"
        before = model("Conv", f"a = ReduceMax <keepdims = 0> (x) b = Greater (a, one) y = If (b) <{branches}>")
        assert types(fused(before)) == types(before)


LIMITS = {
    "y = Clip (s, minus, six)": (-1.0, 6.0),
    "y = Clip (s, zero)": (0.0, float(np.finfo(np.float32).max)),
    "y = Clip (s, , six)": (float(np.finfo(np.float32).min), 6.0),
    "y = Clip (s)": (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)),
}


@pytest.mark.parametrize("tail", LIMITS)
def test_the_limits_of_a_clip(tail: str) -> None:
    (node,) = fused(model("Conv", tail)).graph.node
    given = {item.name: item.f for item in node.attribute if item.name in ("min", "max")}
    assert (given["min"], given["max"]) == LIMITS[tail]


def test_a_clip_of_an_old_opset() -> None:
    """Up to opset 10 the limits were attributes; no opset with functions has it, so only the pass is asked."""
    work = ir.from_proto(model("Conv", "y = Clip (s)"))
    work.graph[1].attributes.add(ir.AttrFloat32("max", 6.0))
    fuse(work)
    (node,) = work.graph
    assert (node.attributes["min"].value, node.attributes["max"].value) == (float(np.finfo(np.float32).min), 6.0)


def test_of_two_layers_the_last_adds() -> None:
    """As in the block of a ResNet that has a convolution in its shortcut."""
    second = LAYERS["Conv"][0].replace("s =", "u =")
    for operands in ("s, u", "u, s"):
        after = fused(model("Conv", f"{second} a = Add ({operands}) y = Relu (a)", known=", float[N,4,4,4] u"))
        assert types(after) == ["SparseConv", "SparseConvAddRelu"]
        assert after.graph.node[1].input[4] == "s"


def test_a_residual_that_is_computed_after_the_layer() -> None:
    """The layer then comes after it, where the sum was."""
    after = fused(
        model("Conv", "a = Exp (r) d = Add (s, a) b = Neg (r) y = Relu (d) z = Add (y, b)", outputs="float z")
    )
    assert types(after) == ["Exp", "Neg", "SparseConvAddRelu", "Add"]


def test_twice_changes_nothing_more() -> None:
    once = fused(model("Conv", "a = Add (s, r) y = Relu (a)"))
    assert fused(once).SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


#: What goes into a linear layer of 4 outputs and comes out of it; what is behind the layer; what is left of it all.
ROWS = {
    "a matrix and back": (
        "float[2,L,6] x", "a = Reshape (x, sixes)", "float[NL,6] a, float[NL,4] s",
        "b = Reshape (s, batches) y = Add (b, r)", ["SparseLinearAdd"],
    ),
    "from one layer to the next": (
        "float[2,L,4] x", "a = Reshape (x, fours)", "float[NL,4] a, float[NL,4] s",
        "b = Reshape (s, batches) d = Relu (b) e = Reshape (d, fours) y = Neg (e)",
        ["SparseLinearRelu", "Reshape", "Neg"],
    ),
    "heads become rows": (
        "float[2,L,2,2] x", "a = Reshape (x, fours)", "float[NL,4] a, float[NL,4] s",
        "b = Reshape (s, batches) y = Add (b, r)", ["Reshape", "Reshape", "SparseLinearAdd"],
    ),
    "batch second": (
        "float[L,2,4] x", "a = Identity (x)", "float[L,2,4] a, float[L,2,4] s",
        "b = Transpose <perm = [1, 0, 2]> (s) y = Add (b, r)", ["Identity", "Transpose", "SparseLinearAdd"],
    ),
    "more inputs than outputs": (
        "float[L,2,6] x", "a = Identity (x)", "float[L,2,6] a, float[L,2,4] s",
        "b = Transpose <perm = [1, 0, 2]> (s) y = Add (b, r)", ["Identity", "SparseLinear", "Transpose", "Add"],
    ),
    "rows become heads": (
        "float[2,L,4] x", "a = Reshape (x, fours)", "float[NL,4] a, float[NL,4] s",
        "b = Reshape (s, heads) y = Relu (b)", ["Reshape", "SparseLinear", "Reshape", "Relu"],
    ),
    "columns become rows": (
        "float[2,4,4] x", "a = Identity (x)", "float[2,4,4] a, float[2,4,4] s",
        "b = Transpose <perm = [0, 2, 1]> (s) y = Relu (b)", ["Identity", "SparseLinear", "Transpose", "Relu"],
    ),
    "other rows than before": (
        "float[L,2,6] x", "a = Reshape (x, sixes)", "float[NL,6] a, float[NL,4] s",
        "b = Reshape (s, batches) y = Add (b, r)", ["Reshape", "SparseLinear", "Reshape", "Add"],
    ),
    "a matrix added": (
        "float[2,L,6] x, float[NL,4] t", "a = Reshape (x, sixes)", "float[NL,6] a, float[NL,4] s",
        "d = Add (s, t) b = Reshape (d, batches) y = Neg (b)", ["Reshape", "SparseLinearAdd", "Reshape", "Neg"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_rows_of_a_linear_layer(case: str) -> None:
    inputs, before, known, tail, left = ROWS[case]
    width = int(known.split("]")[0][-1])
    weight = "l" if width == 6 else "q"
    plain = f"s = sift.SparseLinear <weight_shape=[4,{width}]> (a, {weight}_bits, {weight}_values, {weight}_bias)"
    text = f"g ({inputs}, float[2,L,4] r) => (float y) <{known}, float[2,L,4] b> {{ {before} {plain} {tail} }}"
    if case in ("rows become heads", "columns become rows"):
        text = text.replace(", float[2,L,4] b", "")
    assert types(fused(parsed(text))) == left
