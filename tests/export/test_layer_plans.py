"""What becomes of layers: decided for a whole model, one fate for each weight, and what was fused stays so."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch
from masks import random_mask
from onnx import TensorProto, helper
from torch import nn

from sift_cli import runtime
from sift_cli.export.layer_plans import LayerPlans, by_estimate, keep_dense
from sift_cli.export.onnx import to_onnx


def sparse_linear(rows: int | str, *uses: str, kept: int = 3072 * 768 * 4 // 10) -> onnx.ModelProto:
    """Layers of 768 inputs and 3072 outputs, by default 60 % zeros, all with the same weight; no weights inside."""
    nodes = [
        helper.make_node(
            "SparseLinear", [x, "w.bitmask", "w.values", "b"], [f"{x}.y"], domain="sift", weight_shape=(3072, 768)
        )
        for x in uses
    ]
    sizes = {"x": rows, "few": 8}
    inputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [sizes[x], 768]) for x in uses]
    stored = [TensorProto(name=name, data_type=kind, dims=dims) for name, kind, dims in (
        ("w.bitmask", TensorProto.UINT8, [3072 * 768 // 8]), ("w.values", TensorProto.FLOAT, [kept]),
        ("b", TensorProto.FLOAT, [3072]),
    )]  # fmt: skip
    outputs = [helper.make_tensor_value_info(f"{x}.y", TensorProto.FLOAT, None) for x in uses]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("sift", 1)])


@pytest.mark.parametrize(
    ("rows", "dims", "dense"),
    [
        (128, {}, False),
        (8, {}, True),
        ("n", {"n": 128}, False),
        ("n", {"n": 8, "other": 3}, True),
        ("n", {"n": 1}, False),
    ],
)
def test_an_estimate_knows_the_sizes_of_the_input(rows: int | str, dims: dict[str, int], dense: bool) -> None:
    decided = by_estimate(None, dims)(sparse_linear(rows, "x"))
    assert decided == LayerPlans(frozenset({"w"} if dense else ()))


@pytest.mark.parametrize(("least", "dense"), [(0.61, True), (0.6, False), (0.0, False)])
def test_a_share_of_zeros_decides_alone(least: float, dense: bool) -> None:
    for rows in (8, 128):
        assert by_estimate(least, {})(sparse_linear(rows, "x")).dense == ({"w"} if dense else set())


def test_a_weight_is_sparse_where_that_is_faster_for_one_of_its_layers() -> None:
    assert by_estimate(None, {})(sparse_linear(8, "few", "x")).dense == {"w"}
    assert by_estimate(None, {})(sparse_linear(128, "few", "x")).dense == set()


def test_only_those_that_are_named_become_dense() -> None:
    model = ir.from_proto(sparse_linear(16, "x"))
    keep_dense(model, frozenset({"v"}))
    assert [node.op_type for node in model.graph] == ["SparseLinear"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + x)


@pytest.mark.parametrize("dense", ["first", "second"])
def test_a_dense_layer_between_sparse_ones(dense: str) -> None:
    """What is fused into the sparse one stays so, a plan is stored with it alone, and the numbers are torch's."""
    torch.manual_seed(0)
    module = Net().eval()
    masks = {}
    for name in ("first.weight", "second.weight"):
        weight = module.get_parameter(name)
        masks[name] = random_mask(tuple(weight.shape), 100, seed=0, name=name)
        with torch.no_grad():
            weight.masked_fill_(torch.from_numpy(~masks[name].to_bool()), 0.0)
    x = torch.randn(2, 8, 9, 9)
    plans = {f"{name}.weight": f"nowhere 1x9x9 {name}" for name in ("first", "second")}
    decided = LayerPlans(frozenset({f"{dense}.weight"}), plans)
    model = to_onnx(module, (x[:1],), masks, {}, decide=lambda _: decided)
    ours = {node.op_type: node for node in model.graph.node if node.domain == "sift"}
    assert ours.keys() == {"DenseWeight", "SparseConvAddRelu" if dense == "first" else "SparseConvRelu"}
    (stored,) = (item.s.decode() for node in ours.values() for item in node.attribute if item.name == "plan")
    assert stored == plans["second.weight" if dense == "first" else "first.weight"]
    with torch.no_grad():
        wanted = module(x)
    for library in (False, True):
        (got,) = runtime.session(model.SerializeToString(), library=library).run(None, {"input": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-5, atol=1e-5)


def test_a_dense_weight_under_whose_name_an_embedding_lies() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens))

    module = Tied().eval()
    mask = random_mask((12, 8), 40, seed=0, name="w")
    with torch.no_grad():
        module.head.weight.masked_fill_(torch.from_numpy(~mask.to_bool()), 0.0)
    tokens = torch.arange(6).reshape(1, 6)
    model = to_onnx(module, (tokens,), {"head.weight": mask}, {}, decide=by_estimate(2, {}))
    assert [node.op_type for node in model.graph.node if node.domain == "sift"] == ["DenseWeight"]
    with torch.no_grad():
        wanted = module(tokens)
    (got,) = runtime.session(model.SerializeToString(), library=False).run(None, {"input": tokens.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-5, atol=1e-5)
