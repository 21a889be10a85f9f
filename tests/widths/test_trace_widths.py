from __future__ import annotations

from pathlib import Path

import nets
import pytest
import torch
from torch import nn

from sift_cli.errors import UnsupportedOp
from sift_cli.widths import Axis, Face, LayerRole, WidthGraph, trace_widths
from sift_cli.widths.env import WidthEnv

INPUT = (torch.zeros(1, 3, 8, 8),)


def group_of(graph: WidthGraph, tensor: str, axis: int) -> set[Axis]:
    return next(set(group.axes) for group in graph.groups if Axis(tensor, axis) in group.axes)


def norm(name: str) -> set[Axis]:
    return {Axis(f"{name}.{key}", 0) for key in ("weight", "bias", "running_mean", "running_var")}


def test_widths_of_a_resnet_by_hand() -> None:
    graph = trace_widths(nets.TinyResNet().eval(), INPUT)
    stream = (
        {Axis("conv1.weight", 0), Axis("layer1.conv1.weight", 1), Axis("layer1.conv2.weight", 0)}
        | {Axis("layer2.conv1.weight", 1), Axis("layer2.shortcut.0.weight", 1)}
        | norm("bn1") | norm("layer1.bn2")
    )  # fmt: skip
    assert group_of(graph, "conv1.weight", 0) == stream
    inner = {Axis("layer1.conv1.weight", 0), Axis("layer1.conv2.weight", 1)} | norm("layer1.bn1")
    assert group_of(graph, "layer1.conv1.weight", 0) == inner
    wide = (
        {Axis("layer2.conv2.weight", 0), Axis("layer2.shortcut.0.weight", 0), Axis("fc.weight", 1)}
        | norm("layer2.bn2") | norm("layer2.shortcut.1")
    )  # fmt: skip
    assert group_of(graph, "layer2.conv2.weight", 0) == wide
    faces = {next(iter(g.axes)): g.face for g in graph.groups if g.axes and not g.scales}
    assert faces == {Axis("conv1.weight", 1): Face.INPUT, Axis("fc.weight", 0): Face.OUTPUT}


def test_roles_come_from_the_graph_and_not_from_names() -> None:
    graph = trace_widths(nets.TinyMobileNet().eval(), INPUT)
    assert graph.roles == {
        "stem.weight": LayerRole.FIRST,
        "depthwise.weight": LayerRole.DEPTHWISE,
        "pointwise.weight": LayerRole.HIDDEN,
        "fc.weight": LayerRole.LAST,
    }


def test_the_groups_of_a_depthwise_convolution_grow_with_its_channels() -> None:
    graph = trace_widths(nets.TinyMobileNet().eval(), INPUT)
    scaling = [(a.module, a.name) for g in graph.groups if g.scales for a in g.attributes]
    assert ("depthwise", "groups") in scaling


def test_the_groups_of_a_grouped_convolution_stay() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=4), nn.Flatten(), nn.LazyLinear(5))
    net(torch.zeros(1, 3, 8, 8))
    graph = trace_widths(net.eval(), INPUT)
    assert ("1", "groups") not in [(a.module, a.name) for g in graph.groups if g.scales for a in g.attributes]
    assert graph.roles["1.weight"] is LayerRole.GROUPED


def test_a_concatenation_is_a_relation() -> None:
    graph = trace_widths(nets.TinyConcat().eval(), INPUT)
    (relation,) = ({graph.groups[i].axes[0].tensor: c for i, c in r.items()} for r in graph.relations)
    assert relation in (
        {"left.weight": 1, "right.weight": 1, "join.weight": -1},
        {"left.weight": -1, "right.weight": -1, "join.weight": 1},
    )


def test_a_literal_is_found_with_its_line() -> None:
    graph = trace_widths(nets.TinyLiteral().eval(), INPUT)
    assert {axis for group in graph.literals for axis in group.axes} == {Axis("conv.weight", 0), Axis("conv.bias", 0)}
    lines = Path(nets.__file__).read_text().splitlines()
    assert all(group.frame is not None and "view(-1, 256)" in lines[group.frame.line - 1] for group in graph.literals)


def test_what_divides_a_number_is_no_width() -> None:
    env = WidthEnv()
    symbol, window = env.symbol("window", 7)
    _, width = env.symbol("width", 64)
    windows = 56 // window
    assert (windows * window * width // width).node.expr == 56
    assert [(e.left, e.right) for e in env.equations.values()] == [(symbol, 7)]
    assert not (width // window).node.expr.free_symbols.isdisjoint(width.node.expr.free_symbols)


def test_a_ratio_of_widths_that_divides_a_number_leaves_them_widths() -> None:
    """Hiera's ``reshape(batch, -1, windows, 3, heads, width)``, and the windows that follow from it."""
    env = WidthEnv()
    joint, width = env.symbol("joint", 288)[1], env.symbol("width", 96)[1]
    tokens = 64 * joint // (3 * width)
    windows = (3136 // tokens).node.expr
    assert windows.free_symbols == {joint.node.expr, width.node.expr}
    assert not env.equations


def test_the_module_is_left_alone() -> None:
    net = nets.TinyMobileNet().eval()
    before = {name: (id(tensor), tensor.clone()) for name, tensor in net.state_dict(keep_vars=True).items()}
    attributes = {path: dict(child.__dict__) for path, child in net.named_modules()}
    trace_widths(net, INPUT)
    after = net.state_dict(keep_vars=True)
    assert all(
        id(after[name]) == identity and torch.equal(after[name], old) for name, (identity, old) in before.items()
    )
    for path, child in net.named_modules():
        for key, value in attributes[path].items():
            if isinstance(value, int):
                assert type(child.__dict__[key]) is type(value)
                assert child.__dict__[key] == value


def test_a_forward_that_depends_on_values_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) if x.sum() > 0 else x

    with pytest.raises(UnsupportedOp):
        trace_widths(Branching().eval(), (torch.zeros(1, 3),))
