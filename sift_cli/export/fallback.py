"""What sift's operators mean to an onnxruntime that has never heard of them.

Each operator comes with a model-local function of the same domain and name, written in standard operators. With sift's
library registered the native kernel wins; without it onnxruntime inlines the function, folds the decoding of the
constant weight once at load, and runs a plain dense Conv or MatMul with the same numbers. DenseWeight is that decoding
alone, for a layer that is faster dense: it has no kernel, and is folded with the library, too.

The decoding, for a weight of n elements. Unpack 8 bits a byte, least significant first. A running sum numbers the kept
weights; gather from the values behind one leading 0, and put 0 where the mask keeps nothing. Values in half precision
are widened first, while they are few; where they are float32, that Cast takes no time that could be measured.

What the decoding costs is memory traffic, as onnxruntime stores every result that it folds: few and small steps count.
Measured on ResNet-18 wide 90 (110 M weights, 9.5 M kept), onnxruntime 1.31: 5.3 s to load, against 11 s with the bits
widened to int32 before they are cut and a product in place of Where. NonZero and ScatterElements would take 0.7 s, but
1.31 does not fold NonZero, and would decode in every run.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx.parser

from sift_cli.core.operators import DENSE_WEIGHT, DOMAIN, MAX_POOL, OPERATORS, Operator

_DECODE = """
    minus_one = Constant <value_ints: ints = [-1]> ()
    rows_of_1 = Constant <value_ints: ints = [-1, 1]> ()
    zero = Constant <value_ints: ints = [0]> ()
    axis_0 = Constant <value_int: int = 0> ()
    first = Constant <value_floats: floats = [0.0]> ()
    shape = Constant <value_ints: ints = @weight_shape> ()
    count = ReduceProd <keepdims = 1> (shape)
    column = Reshape (bitmask, rows_of_1)
BITS
    set = Cast <to = 9> (set_bits)
    padded = Reshape (set, minus_one)
    kept = Slice (padded, zero, count)
    numbers = Cast <to = 6> (kept)
    running = CumSum (numbers, axis_0)
    floats = Cast <to = 1> (values)
    table = Concat <axis = 0> (first, floats)
    latest = Gather <axis = 0> (table, running)
    flat = Where (kept, latest, first)
    weight = Reshape (flat, shape)
"""

_BITS = """
    bit_values = Constant <value_ints: ints = [1, 2, 4, 8, 16, 32, 64, 128]> ()
    bits_of_a_byte = Cast <to = 2> (bit_values)
    set_bits = BitwiseAnd (column, bits_of_a_byte)
"""
#: Before opset 18, which has BitwiseAnd: each bit alone, by shifting the others out. A tenth slower to load.
_BITS_BY_SHIFTS = """
    lefts = Constant <value_ints: ints = [7, 6, 5, 4, 3, 2, 1, 0]> ()
    right = Constant <value_ints: ints = [7]> ()
    to_the_left = Cast <to = 2> (lefts)
    to_the_right = Cast <to = 2> (right)
    highest = BitShift <direction = "LEFT"> (column, to_the_left)
    set_bits = BitShift <direction = "RIGHT"> (highest, to_the_right)
"""

#: Each part goes from the value BEFORE to the value AFTER.
_LAYERS = {
    "Conv": """
    AFTER = Conv <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group>
        (x, weight, bias)
""",
    "Linear": """
    transposed = Transpose <perm = [1, 0]> (weight)
    product = MatMul (x, transposed)
    AFTER = Add (product, bias)
""",
}
_MAX_POOL = f"""
    {MAX_POOL} <kernel_shape, strides> (x) => (y)
    {{
        y = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides> (x)
    }}
"""
_RESIDUAL = "AFTER = Add (BEFORE, residual)"
#: GELU as torch and GPT-2 write it, which onnxruntime recognises; it is an operator of its own from opset 20 on only.
_ACTIVATIONS = {
    "Relu": "AFTER = Relu (BEFORE)",
    "Clip": """
    low = Constant <value_float: float = @min> ()
    high = Constant <value_float: float = @max> ()
    AFTER = Clip (BEFORE, low, high)
""",
    "LeakyRelu": "AFTER = LeakyRelu <alpha: float = @alpha> (BEFORE)",
    "Silu": """
    logistic = Sigmoid (BEFORE)
    AFTER = Mul (BEFORE, logistic)
""",
    "Gelu": """
    root = Constant <value_float: float = 1.4142135623730951> ()
    unit = Constant <value_float: float = 1.0> ()
    half = Constant <value_float: float = 0.5> ()
    scaled = Div (BEFORE, root)
    error = Erf (scaled)
    raised = Add (error, unit)
    doubled = Mul (BEFORE, raised)
    AFTER = Mul (doubled, half)
""",
    "GeluTanh": """
    three = Constant <value_float: float = 3.0> ()
    share = Constant <value_float: float = 0.044715> ()
    root = Constant <value_float: float = 0.7978845608028654> ()
    unit = Constant <value_float: float = 1.0> ()
    half = Constant <value_float: float = 0.5> ()
    cube = Pow (BEFORE, three)
    bend = Mul (cube, share)
    bent = Add (BEFORE, bend)
    scaled = Mul (bent, root)
    tangent = Tanh (scaled)
    raised = Add (tangent, unit)
    halved = Mul (BEFORE, half)
    AFTER = Mul (halved, raised)
""",
}


def functions(names: Collection[str], opset: int) -> list[onnx.FunctionProto]:
    """The functions for operators, DenseWeight and ArrangedMaxPool, in the opset of the model they go into. That is
    12 or newer; 13 or newer where values are bfloat16."""
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
    decode = _DECODE.replace("BITS", _BITS if opset >= 18 else _BITS_BY_SHIFTS)
    texts = {DENSE_WEIGHT: f"{DENSE_WEIGHT} <weight_shape> (bitmask, values) => (weight) {{ {decode} }}"}
    texts[MAX_POOL] = _MAX_POOL
    texts |= {name: _text(OPERATORS[name], decode) for name in names if name in OPERATORS}
    return [onnx.parser.parse_function(f"{header} {texts[name]}") for name in sorted(names)]


def activation(name: str, before: str, after: str) -> str:
    """The nodes of an activation of :data:`~sift_cli.core.operators.ACTIVATIONS`, from one value to another."""
    return _between(_ACTIVATIONS[name], before, after)


def _between(part: str, before: str, after: str) -> str:
    return part.replace("BEFORE", before).replace("AFTER", after)


def _text(operator: Operator, body: str) -> str:
    """The function of ``operator``; ``body`` makes its weight."""
    inputs = ["x", "bitmask", "values", "bias"] + ["residual"] * operator.adds
    parts = [_LAYERS[operator.layer]] + [_RESIDUAL] * operator.adds
    if operator.activation:
        parts.append(_ACTIVATIONS[operator.activation])
    for number, part in enumerate(parts, 1):
        after = "y" if number == len(parts) else f"sum_{number}"
        body += _between(part, f"sum_{number - 1}", after)
    return f"{operator.name} <{', '.join(operator.attributes)}> ({', '.join(inputs)}) => (y) {{ {body} }}"
