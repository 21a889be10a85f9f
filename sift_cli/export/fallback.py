"""What sift's operators mean to an onnxruntime that has never heard of them.

Each operator comes with a model-local function of the same domain and name, written in standard operators. With sift's
library registered the native kernel wins; without it onnxruntime inlines the function, folds the decoding of the
constant weight once at load, and runs a plain dense Conv or MatMul with the same numbers.

The decoding, for a weight of n elements. Unpack 8 bits a byte, least significant first. A running sum numbers the kept
weights; gather from the values behind one leading 0, and put 0 where the mask keeps nothing.

What the decoding costs is memory traffic, as onnxruntime stores every result that it folds: few and small steps count.
Measured on ResNet-18 wide 90 (110 M weights, 9.5 M kept), onnxruntime 1.31: 5.3 s to load, against 11 s with the bits
widened to int32 before they are cut and a product in place of Where. NonZero and ScatterElements would take 0.7 s, but
1.31 does not fold NonZero, and would decode in every run.
"""

from __future__ import annotations

import onnx
import onnx.parser

_DECODE = """
    bit_values = Constant <value_ints: ints = [1, 2, 4, 8, 16, 32, 64, 128]> ()
    bits_of_a_byte = Cast <to = 2> (bit_values)
    minus_one = Constant <value_ints: ints = [-1]> ()
    one = Constant <value_ints: ints = [1]> ()
    zero = Constant <value_ints: ints = [0]> ()
    axis_0 = Constant <value_int: int = 0> ()
    first = Constant <value_floats: floats = [0.0]> ()
    shape = Constant <value_ints: ints = @weight_shape> ()
    count = ReduceProd <keepdims = 1> (shape)
    column = Unsqueeze (bitmask, one)
    set_bits = BitwiseAnd (column, bits_of_a_byte)
    set = Cast <to = 9> (set_bits)
    padded = Reshape (set, minus_one)
    kept = Slice (padded, zero, count)
    numbers = Cast <to = 6> (kept)
    running = CumSum (numbers, axis_0)
    table = Concat <axis = 0> (first, values)
    latest = Gather <axis = 0> (table, running)
    flat = Where (kept, latest, first)
    weight = Reshape (flat, shape)
"""

_CONV = """
<domain: "sift", opset_import: ["" : OPSET]>
SparseConv <weight_shape, strides, pads, dilations, group> (x, bitmask, values, bias) => (y)
{
DECODE
    y = Conv <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group>
        (x, weight, bias)
}
"""

_LINEAR = """
<domain: "sift", opset_import: ["" : OPSET]>
SparseLinear <weight_shape> (x, bitmask, values, bias) => (y)
{
DECODE
    transposed = Transpose <perm = [1, 0]> (weight)
    product = MatMul (x, transposed)
    y = Add (product, bias)
}
"""


def functions(names: set[str], opset: int) -> list[onnx.FunctionProto]:
    """The functions for the operators in ``names``, in the opset of the model they go into."""
    bodies = {"SparseConv": _CONV, "SparseLinear": _LINEAR}
    return [
        onnx.parser.parse_function(bodies[name].replace("DECODE", _DECODE).replace("OPSET", str(opset)))
        for name in sorted(names)
    ]
