"""Tensors between sparse layers that stay arranged: where, and that no result changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import attributes, graph, normal, run, sparse

from sift_cli.core.operators import DOMAIN, MAX_POOL
from sift_cli.errors import RuntimeUnavailable
from sift_cli.export import fallback
from sift_cli.export.arranging import ARRANGED, STRIDES, arrange, forget
from sift_cli.export.dense import plain
from sift_cli.flops import count_onnx
from sift_cli.runtime import library_path, max_pool


def conv(
    name: str, reads: str, weight: tuple[int, ...], pad: int = 0, *, stride: int = 1, dilation: int = 1, group: int = 1,
    op: str = "SparseConv", residual: str = "", pads: tuple[int, ...] | None = None,
) -> tuple[str, tuple[int, ...]]:  # fmt: skip
    """Text of a node that gives ``name``, and the shape of its weight."""
    shape, around = list(weight), list(pads or (pad,) * 4)
    text = (
        f"{name} = sift.{op} <weight_shape={shape}, strides=[{stride},{stride}], pads={around}, "
        f"dilations=[{dilation},{dilation}], group={group}> ({reads}, {name}_bits, {name}_values, {name}_bias"
    )
    return text + (f", {residual})" if residual else ")"), weight


def linear(name: str, reads: str, weight: tuple[int, int], op: str = "SparseLinear", residual: str = "") -> Any:
    text = f"{name} = sift.{op} <weight_shape={list(weight)}> ({reads}, {name}_bits, {name}_values, {name}_bias"
    return text + (f", {residual})" if residual else ")"), weight


def model(signature: str, *nodes: Any) -> onnx.ModelProto:
    """Of sparse nodes and plain ones, which are text alone."""
    arrays: dict[str, np.ndarray] = {}
    lines = []
    for node in nodes:
        text, shape = node if isinstance(node, tuple) else (node, None)
        lines.append(text)
        if shape is not None:
            name = text.split(" ", 1)[0]
            weight = sparse(*shape, zeros=0.6, seed=len(lines))
            arrays[f"{name}_bits"] = np.packbits(weight.reshape(-1) != 0, bitorder="little")
            arrays[f"{name}_values"] = weight[weight != 0]
            arrays[f"{name}_bias"] = normal(shape[0], seed=len(lines))
    made = graph(f"{signature} {{ {' '.join(lines)} }}", arrays)
    made.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    made.functions.extend(fallback.functions({node.op_type for node in made.graph.node if node.domain == DOMAIN}, 13))
    return made


def asked(made: onnx.ModelProto) -> dict[str, list[int]]:
    """The attributes of each node that has them, by its output."""
    arrange(made)
    return {
        node.output[0]: [*attributes(node)[ARRANGED], *attributes(node).get(STRIDES, ())]
        for node in made.graph.node
        if ARRANGED in attributes(node)
    }  # fmt: skip


def pool(name: str, reads: str, attributes: str = "kernel_shape=[2,2], strides=[2,2]") -> str:
    return f"{name} = MaxPool <{attributes}> ({reads})"


IMAGE = "(float[N,3,H,W] x) => (float[N,M,P,Q] y)"
TOKENS = "(float[N,L,6] x) => (float[N,L,K] y)"


def test_a_chain_of_convolutions_is_arranged_for_its_readers() -> None:
    made = model(
        IMAGE, conv("a", "x", (5, 3, 3, 3), 1, stride=2), conv("b", "a", (4, 5, 5, 5), 2), conv("y", "b", (2, 4, 1, 1))
    )
    assert asked(made) == {"a": [0, 1, 2, 2, 2, 2], "b": [1, 1, 0, 0, 0, 0], "y": [1, 0, 0, 0, 0, 0]}


def test_of_an_even_kernel_the_sides_differ() -> None:
    made = model(IMAGE, conv("a", "x", (5, 3, 1, 1)), conv("y", "a", (4, 5, 2, 4), dilation=2, pads=(0, 1, 2, 5)))
    assert asked(made)["a"] == [0, 1, 0, 1, 2, 5]


def test_a_residual_that_a_sparse_layer_adds_may_be_arranged_for_another() -> None:
    made = model(
        IMAGE, conv("a", "x", (5, 3, 3, 3), 1), conv("b", "a", (5, 5, 3, 3), 1),
        conv("y", "b", (5, 5, 3, 3), 1, op="SparseConvAddRelu", residual="a"),
    )  # fmt: skip
    assert asked(made) == {"a": [0, 1, 1, 1, 1, 1], "b": [1, 1, 1, 1, 1, 1], "y": [1, 0, 0, 0, 0, 0]}


def test_of_readers_that_need_different_pixels_each_finds_its_own() -> None:
    made = model(
        "(float[N,3,H,W] x) => (float[N,4,P,Q] b, float[N,4,P,Q] c, float[N,4,P,Q] y)",
        conv("a", "x", (5, 3, 1, 1)), conv("b", "a", (4, 5, 3, 5), pads=(2, 1, 0, 3)), conv("c", "a", (4, 5, 1, 1)),
        conv("y", "a", (4, 5, 3, 3), 1),
    )  # fmt: skip
    assert asked(made)["a"] == [0, 1, 2, 1, 1, 3]


def test_strides_need_no_more_than_their_last_window() -> None:
    made = model(
        "(float[N,3,H,W] x) => (float[N,M,P,Q] y)", conv("a", "x", (5, 3, 1, 1)),
        conv("b", "a", (5, 5, 3, 3), 1, stride=2, op="SparseConvRelu"), conv("c", "b", (4, 5, 3, 3), 1),
        conv("y", "a", (4, 5, 1, 1), stride=2, op="SparseConvAdd", residual="c"),
    )  # fmt: skip
    assert asked(made) == {
        "a": [0, 1, 1, 1, 0, 0, 2, 2], "b": [1, 1, 1, 1, 1, 1], "c": [1, 1, 0, 0, 0, 0], "y": [1, 0, 0, 0, 0, 0]
    }  # fmt: skip
    large = model(IMAGE, conv("a", "x", (5, 3, 1, 1)), conv("y", "a", (4, 5, 7, 7), 3, stride=2))
    assert asked(large)["a"] == [0, 1, 3, 3, 2, 2, 2, 2]


def test_a_pool_between_convolutions_is_one_of_them() -> None:
    made = model(
        IMAGE, conv("a", "x", (5, 3, 3, 3), 1), pool("p", "a"), conv("b", "p", (4, 5, 3, 3), 1),
        pool("q", "b", "kernel_shape=[3,2]"), conv("c", "q", (4, 4, 1, 1), op="SparseConvAdd", residual="q"),
        pool("r", "c", "kernel_shape=[3,4], strides=[2,3], pads=[0,0,0,0], auto_pad=\"VALID\", storage_order=1"),
        conv("y", "r", (2, 4, 3, 3), 1, stride=2),
    )  # fmt: skip
    before = onnx.ModelProto.FromString(made.SerializeToString())
    assert asked(made) == {
        "a": [0, 1, 0, 0, 0, 0, 2, 2], "p": [1, 1, 1, 1, 1, 1], "b": [1, 1, 0, 0, 2, 1], "q": [1, 1, 0, 0, 0, 0],
        "c": [1, 1, 0, 0, 1, 1, 2, 3], "r": [1, 1, 1, 1, 0, 0, 2, 2], "y": [1, 0, 0, 0, 0, 0],
    }  # fmt: skip
    assert [node.op_type for node in made.graph.node if node.output[0] in "pqr"] == ["ArrangedMaxPool"] * 3
    onnx.checker.check_model(made)
    dims = {"N": 2, "H": 40, "W": 41}
    assert [(one.name, one.op, one.dense) for one in count_onnx(_saved(made), dims=dims).layers] == [
        (one.name, one.op, one.dense) for one in count_onnx(_saved(before), dims=dims).layers
    ]
    assert {node.op_type for node in plain(made).graph.node} == {"Conv", "Add", "MaxPool"}
    forget(made)
    assert [function.name for function in made.functions] == [function.name for function in before.functions]
    assert [node.op_type for node in made.graph.node] == [node.op_type for node in before.graph.node]


POOLS: dict[str, str] = {
    "padded": pool("p", "a", "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]"),
    "padded by its size": pool("p", "a", 'kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"'),
    "of parts of windows": pool("p", "a", "kernel_shape=[2,2], strides=[2,2], ceil_mode=1"),
    "dilated": pool("p", "a", "kernel_shape=[2,2], dilations=[2,1]"),
    "indices": "p, i = MaxPool <kernel_shape=[2,2]> (a)",
    "averages": "p = AveragePool <kernel_shape=[2,2]> (a)",
}


@pytest.mark.parametrize("case", POOLS)
def test_pools_of_other_kinds_stay_as_they_are(case: str) -> None:
    made = model(IMAGE, conv("a", "x", (5, 3, 3, 3), 1), POOLS[case], conv("y", "p", (2, 5, 3, 3), 1))
    before = made.SerializeToString()
    assert asked(made) == {}
    assert made.SerializeToString() == before


def test_a_pool_stays_as_it_is_where_one_of_its_sides_is_read_otherwise() -> None:
    """And so does one behind it, or beside it, that needs it."""
    signature = "(float[N,3,H,W] x) => (float[N,5,P,Q] q, float[N,M,R,S] y)"
    chain = (conv("a", "x", (5, 3, 3, 3), 1), pool("p", "a"), pool("q", "p"), conv("y", "q", (2, 5, 3, 3), 1))
    assert asked(model(signature, *chain)) == {}
    assert asked(model(IMAGE, pool("p", "x"), conv("y", "p", (2, 3, 3, 3), 1))) == {}
    beside = "(float[N,3,H,W] x) => (float[N,5,P,Q] q, float[N,M,R,S] y)"
    two = (conv("a", "x", (5, 3, 3, 3), 1), pool("p", "a"), conv("y", "p", (2, 5, 3, 3), 1), pool("q", "a"))
    assert asked(model(beside, *two)) == {}


STAYS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "an output of the graph": (
        "(float[N,3,H,W] x) => (float[N,5,H,W] a, float[N,M,P,Q] y)",
        (conv("a", "x", (5, 3, 1, 1)), conv("y", "a", (4, 5, 1, 1))),
    ),
    "another reader": (IMAGE, (conv("a", "x", (5, 3, 1, 1)), conv("b", "a", (5, 5, 1, 1)), "y = Add (a, b)")),
    "nothing but a sum reads it, of a layer that rearranges nothing": (
        IMAGE, (conv("a", "x", (5, 3, 1, 1)), conv("y", "x", (5, 3, 1, 1), op="SparseConvAdd", residual="a"))
    ),
    "another size": (IMAGE, (conv("a", "x", (5, 3, 1, 1)), conv("y", "a", (4, 5, 3, 3)))),
    "another size with a stride": (IMAGE, (conv("a", "x", (5, 3, 1, 1)), conv("y", "a", (4, 5, 2, 2), stride=2))),
    "two readers with different strides": (
        "(float[N,3,H,W] x) => (float[N,4,P,Q] b, float[N,M,P,Q] y)",
        (conv("a", "x", (5, 3, 1, 1)), conv("b", "a", (4, 5, 3, 3), 1), conv("y", "a", (4, 5, 1, 1), stride=2)),
    ),
    "a stride and a sum": (
        "(float[N,3,H,W] x) => (float[N,4,P,Q] b, float[N,M,P,Q] y)",
        (
            conv("a", "x", (5, 3, 1, 1)), conv("b", "a", (4, 5, 3, 3), 1, stride=2),
            conv("y", "x", (5, 3, 3, 3), 1, op="SparseConvAdd", residual="a"),
        ),
    ),
    "a subgraph": (
        "(float[N,3,H,W] x, bool on) => (float[N,M,P,Q] y)",
        (
            conv("a", "x", (5, 3, 1, 1)), conv("b", "a", (5, 5, 1, 1)),
            "y = If (on) <then_branch = t () => (float[N,M,P,Q] u) { u = Identity (a) }, "
            "else_branch = e () => (float[N,M,P,Q] v) { v = Identity (b) }>",
        ),
    ),
    "a sum of a linear layer": (
        "(float[N,L,6] x, float[N,L,7] r) => (float[N,L,K] y)",
        (linear("a", "x", (7, 6), "SparseLinearAdd", "r"), linear("y", "a", (4, 7))),
    ),
    "a linear layer that adds it": (
        TOKENS, (linear("a", "x", (7, 6)), linear("y", "x", (7, 6), "SparseLinearAdd", "a"))
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS)
def test_stays_as_it_is(case: str) -> None:
    assert asked(model(STAYS[case][0], *STAYS[case][1])) == {}


def test_shapes_that_are_no_longer_true_are_forgotten_and_the_rest_is_as_before() -> None:
    made = model(IMAGE, conv("a", "x", (5, 3, 1, 1)), conv("y", "a", (4, 5, 1, 1)))
    made.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, ["N", 5, "H", "W"]))
    made.graph.value_info.append(onnx.helper.make_tensor_value_info("other", 1, ["N"]))
    before = onnx.ModelProto.FromString(made.SerializeToString())
    dims = {"N": 2, "H": 4, "W": 5}
    count = count_onnx(_saved(before), dims=dims).sparse
    arrange(made)
    assert [value.name for value in made.graph.value_info] == ["other"]
    assert count_onnx(_saved(made), dims=dims).sparse == count == sum(
        20 * 2 * np.unpackbits(np.frombuffer(t.raw_data, np.uint8)).sum()
        for t in made.graph.initializer if t.name.endswith("_bits")
    )  # fmt: skip
    forget(made)
    del before.graph.value_info[:], made.graph.value_info[:]
    assert made == before


@pytest.fixture(autouse=True)
def _folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _saved(made: onnx.ModelProto) -> str:
    onnx.save(made, "m.onnx")
    return "m.onnx"


NETS: dict[str, onnx.ModelProto] = {
    "residual block": model(
        IMAGE, conv("a", "x", (20, 3, 3, 3), 1, stride=2, op="SparseConvRelu"), conv("b", "a", (20, 20, 3, 3), 1),
        conv("c", "b", (20, 20, 3, 3), 1, op="SparseConvAddRelu", residual="a"),
        conv("d", "c", (20, 20, 3, 3), 1, op="SparseConvRelu"),
        conv("y", "d", (20, 20, 3, 3), 1, op="SparseConvAddSilu", residual="c"),
    ),
    "bottleneck": model(
        IMAGE, conv("s", "x", (40, 3, 1, 1)), "t = Relu (s)", conv("a", "t", (9, 40, 1, 1), op="SparseConvRelu"),
        conv("b", "a", (9, 9, 5, 5), 4, dilation=2), conv("c", "b", (40, 9, 1, 1), op="SparseConvAdd", residual="t"),
        conv("d", "c", (9, 40, 1, 1)), conv("y", "d", (40, 9, 1, 1), op="SparseConvAdd", residual="c"),
    ),
    "inverted bottleneck": model(
        IMAGE, conv("a", "x", (24, 3, 1, 1), op="SparseConvClip"),
        conv("b", "a", (24, 1, 3, 3), 1, group=24, op="SparseConvClip"), conv("y", "b", (6, 24, 1, 1)),
    ),
    "strides": model(
        IMAGE, conv("s", "x", (20, 3, 3, 3), 1, op="SparseConvRelu"),
        conv("a", "s", (24, 20, 3, 3), 1, stride=2, op="SparseConvRelu"), conv("b", "a", (24, 24, 3, 3), 1),
        conv("c", "s", (24, 20, 1, 1), stride=2, op="SparseConvAddRelu", residual="b"),
        conv("d", "c", (9, 24, 5, 5), 2, stride=3), conv("y", "d", (7, 9, 3, 3), 2, stride=2, dilation=2),
    ),
    "pools": model(
        IMAGE, conv("a", "x", (20, 3, 3, 3), 5, op="SparseConvRelu"), pool("p", "a"),
        conv("b", "p", (9, 20, 5, 5), 2, op="SparseConvRelu"), pool("q", "b", "kernel_shape=[1,2], strides=[1,3]"),
        conv("c", "q", (24, 9, 3, 3), 1), pool("r", "c", "kernel_shape=[2,1]"), conv("y", "r", (5, 24, 1, 1), stride=2),
    ),
    "different pixels": model(
        IMAGE, conv("a", "x", (17, 3, 1, 1), op="SparseConvRelu"), conv("b", "a", (9, 17, 1, 1)),
        conv("c", "a", (9, 17, 3, 3), 1, op="SparseConvAdd", residual="b"),
        conv("y", "a", (9, 17, 5, 3), pads=(3, 0, 1, 2), op="SparseConvAdd", residual="c"),
    ),
    "lopsided": model(
        IMAGE, conv("a", "x", (5, 3, 3, 3), 1), conv("b", "a", (6, 5, 2, 4), pads=(0, 1, 1, 2)),
        conv("y", "b", (3, 6, 4, 3), pads=(3, 2, 0, 0)),
    ),
}  # fmt: skip
for _net in NETS.values():
    for _node in _net.graph.node:
        if "Clip" in _node.op_type:
            _node.attribute.extend([onnx.helper.make_attribute("min", 0.0), onnx.helper.make_attribute("max", 1.5)])
MLP = model(
    TOKENS, linear("a", "x", (70, 6), "SparseLinearGelu"), linear("b", "a", (33, 70)),
    linear("y", "b", (6, 33), "SparseLinearAdd", "x"),
)  # fmt: skip


def _with_library(made: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    try:
        return run(made, feed, str(library_path()))[0]
    except RuntimeUnavailable as error:
        pytest.skip(str(error))


def _both(made: onnx.ModelProto, x: np.ndarray) -> None:
    arranged = onnx.ModelProto.FromString(made.SerializeToString())
    assert asked(arranged)
    plain, got = _with_library(made, {"x": x}), _with_library(arranged, {"x": x})
    # Rounding of sums of up to 180 terms: another kernel or tiling may be the best for arranged inputs, and add in
    # another order.
    bound = 180 * 2**-23 * np.abs(plain).max()
    for one in (got, run(arranged, {"x": x})[0]):
        np.testing.assert_allclose(one, plain, rtol=0, atol=bound)


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (14, 13), (28, 30), (3, 57), (64, 5)], ids=str)
@pytest.mark.parametrize("images", [1, 2, 3, 17])
@pytest.mark.parametrize("net", NETS)
def test_arranged_images_change_no_result(net: str, images: int, size: tuple[int, int]) -> None:
    _both(NETS[net], normal(images, 3, *size))


def test_pools_read_what_is_not_finite_as_their_definition_says() -> None:
    """Ones in 1x1 convolutions: what goes into the pool is what comes into the model."""
    made = model(
        "(float[N,1,H,W] x) => (float[N,1,P,Q] y)", conv("a", "x", (1, 1, 1, 1)),
        pool("p", "a", "kernel_shape=[3,2], strides=[2,1]"), conv("y", "p", (1, 1, 1, 1)),
    )  # fmt: skip
    one: dict[str, np.ndarray] = {
        "bits": np.array([1], np.uint8),
        "values": np.ones(1, np.float32),
        "bias": np.zeros(1, np.float32),
    }
    for tensor in made.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(one[tensor.name.split("_")[1]], tensor.name))
    arrange(made)
    x = normal(3, 1, 33, 20)
    x.reshape(-1)[[5, 77, 300, 301, 900]] = np.nan, np.inf, -np.inf, np.nan, np.nan
    np.testing.assert_array_equal(_with_library(made, {"x": x}), max_pool(x, (3, 2), (2, 1)))
    x = np.nan_to_num(x, posinf=np.inf, neginf=-np.inf)
    np.testing.assert_array_equal(run(made, {"x": x})[0], max_pool(x, (3, 2), (2, 1)))


@pytest.mark.parametrize("tokens", [(1, 1), (1, 9), (1, 15), (2, 8), (1, 17), (3, 40), (2, 131)], ids=str)
def test_arranged_tokens_change_no_result(tokens: tuple[int, int]) -> None:
    _both(MLP, normal(*tokens, 6))


def test_no_images_and_no_tokens() -> None:
    for made, x in ((NETS["residual block"], normal(0, 3, 8, 8)), (MLP, normal(2, 0, 6))):
        arrange(again := onnx.ModelProto.FromString(made.SerializeToString()))
        assert _with_library(again, {"x": x}).size == 0


def _forged(*words: int, floats: int = 4096) -> np.ndarray:
    """A header as the library writes it, in front of nothing: magic, lanes, rank, eight sizes, the halo, strides."""
    data = np.zeros(floats // 2, np.int64)
    data[: len(words)] = words
    return data.view(np.float32)


MAGIC = int.from_bytes(b"arranged", "little")


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize(
    "header",
    [
        (), (MAGIC,), (MAGIC, -1, -1), (MAGIC, 0, 4, 1, 3, 2**40, 2**40), (MAGIC, 0, 4, 2**31 - 1, 3, 2**31 - 1, 1),
        (MAGIC, 0, 4, 1, 3, 4, 4), (MAGIC, 0, 4, 1, 3, 4, 4, 0, 0, 0, 0, 1, 1, 1, 1), (MAGIC, 0, 4, 0, 3, 4, 4),
        (MAGIC, 0, 9, 1, 3, 4, 4), (MAGIC, 0, 4, 1, 3, 4, 4, 0, 0, 0, 0, -1, -1, -1, -1), (MAGIC, 0, 2, 3, 3),
        *((MAGIC, 0, 4, 1, 3, 4, 4, 0, 0, 0, 0, *reading) for reading in (
            (1, 1, 1, 1, 0, 0), (1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 2, 2), (0, 1, 1, 1, 1, 1),
            (2**31 - 1, 1, 2**31 - 1, 1, 1, 1),
        )),
    ],
    ids=str,
)  # fmt: skip
def test_what_nobody_arranged_is_refused(header: tuple[int, ...], lanes: int) -> None:
    """An input of the model takes the place of what a sparse layer left."""
    header = (*header[:1], *(lanes if at == 1 and word == 0 else word for at, word in enumerate(header) if at))
    for node in (conv("y", "x", (4, 3, 3, 3), 1), pool("y", "x", "kernel_shape=[3,3], strides=[2,1]")):
        made = model("(float[F] x) => (float[N,M,P,Q] y)", node)
        if made.graph.node[0].op_type == "MaxPool":
            made.graph.node[0].domain, made.graph.node[0].op_type = DOMAIN, MAX_POOL
        made.graph.node[0].attribute.append(onnx.helper.make_attribute(ARRANGED, [1, 0, 0, 0, 0, 0]))
        with pytest.raises(Exception, match=r"X has shape|arranged|too large"):
            _with_library(made, {"x": _forged(*header)})


@pytest.mark.parametrize(
    ("text", "attribute", "why"),
    [
        (conv("y", "x", (4, 3, 2, 2), stride=2), [1, 0, 0, 0, 0, 0], "size of Y"),
        (conv("y", "x", (4, 3, 3, 3)), [1, 0, 0, 0, 0, 0], "size of Y"),
        (conv("y", "x", (4, 3, 3, 3), 1), [0, 1, -1, 0, 0, 0], "arranged"),
        (conv("y", "x", (4, 3, 3, 3), 1), [0, 1], "arranged"),
    ],
    ids=str,
)
def test_an_attribute_that_cannot_be_is_refused(text: Any, attribute: list[int], why: str) -> None:
    made = model(IMAGE, text)
    made.graph.node[0].attribute.append(onnx.helper.make_attribute(ARRANGED, attribute))
    with pytest.raises(Exception, match=why):
        _with_library(made, {"x": normal(1, 3, 8, 8)})
