"""Deciding about layers by measuring them: dense in onnxruntime, and sparse with each plan that the kernels have."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from sift_cli.core.operators import DOMAIN, operator_of
from sift_cli.export import fallback
from sift_cli.export.dense import plain
from sift_cli.export.layer_plans import PLAN, Decide, LayerPlans, by_estimate, candidates, known_shapes, weight_name
from sift_cli.export.onnx import IR_VERSION, OPSET
from sift_cli.export.partition import Choice, cheapest_dense
from sift_cli.export.sparse_node import RESIDUAL, VALUES, X
from sift_cli.export.worth import reordering_cost
from sift_cli.flops.onnx_graph import attribute, weight_shape
from sift_cli.runtime import session
from sift_cli.runtime.bench import compare
from sift_cli.runtime.library import plans
from sift_cli.runtime.machine import this_machine
from sift_cli.runtime.peers import OnnxRuntime
from sift_cli.verify.feeds import Feed
from sift_cli.verify.outputs import showing

#: A plan is stored for a layer that takes at most this part of its time without one: less would be noise.
GAIN = 0.97
#: Plans that are measured beside the usual one and dense, after all were tried.
_FINALISTS = 2
#: Runs that a plan is tried for, and the fewest seconds of them.
_TRIES, _SECONDS = 5, 0.01
#: Seconds of rounds in which the finalists take turns.
_FINAL = 0.5


@dataclass(frozen=True)
class TunedLayer:
    """What was measured of one layer, and of all that are like it.

    Attributes:
        weights: Names of their weights.
        layer: Operator, shapes and sparsity.
        dense: Seconds in onnxruntime with a dense weight.
        usual: Seconds with the plan that the kernels choose themselves.
        best: Seconds with the fastest plan there is.
        plan: That plan, where it is faster than the usual one.
        kept_dense: How many of the weights are to be dense: a layer between dense ones converts what it reads and
            writes, and so not all that are alike have one fate.
    """

    weights: tuple[str, ...]
    layer: str
    dense: float
    usual: float
    best: float
    plan: str | None
    kept_dense: int = 0

    @property
    def decision(self) -> str:
        """What becomes of them: "dense", "as usual", or the kernel and the numbers of a plan."""
        sparse = " ".join(self.plan.split()[2:]) if self.plan else "as usual"
        if self.kept_dense == 0:
            return sparse
        return "dense" if self.kept_dense == len(self.weights) else f"{sparse}; {self.kept_dense} dense"

    def to_json(self) -> dict[str, Any]:
        return {
            "weights": list(self.weights),
            "layer": self.layer,
            "dense_seconds": self.dense,
            "usual_seconds": self.usual,
            "best_seconds": self.best,
            "decision": self.decision,
        }


class Tuning:
    """Decides by measuring on this machine.

    Args:
        threads: Threads within an op; None for one a core.
        least: Share of zeros from which on a layer is sparse, however fast; None where what is faster decides.

    Attributes:
        layers: What it found.
    """

    def __init__(self, *, threads: int | None, least: float | None) -> None:
        self._threads, self._least = threads, least
        self.layers: tuple[TunedLayer, ...] = ()

    def on(self, feed: Callable[[onnx.ModelProto], Feed]) -> Decide:
        """Decide about a model at the sizes of these inputs for it."""
        return lambda model: self._decided(model, feed(model))

    def _decided(self, model: onnx.ModelProto, feed: Feed) -> LayerPlans:
        asked = LayerPlans() if self._least is None else by_estimate(self._least, {})(model)
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes = [node for node in model.graph.node if operator_of(node.domain, node.op_type)]
        nodes = [node for node in nodes if weight_name(node) not in asked.dense]
        shapes = _input_shapes(model, nodes, feed)
        alike: dict[tuple[object, ...], list[_Layer]] = defaultdict(list)
        for node in nodes:
            layer = _Layer(node, stored, shapes[node.input[X]])
            alike[layer.key].append(layer)
        found = [(group, _measured(group, self._threads)) for group in alike.values()]
        wanted: dict[str, set[str | None]] = defaultdict(set)
        for group, tuned in found:
            for layer in group:  # a weight that several layers read has one fate
                wanted[layer.weight].add(tuned.plan)
        slower = self._slower(model, feed, found) if self._least is None else set()
        self.layers = tuple(replace(tuned, kept_dense=len(slower.intersection(tuned.weights))) for _, tuned in found)
        plans = {name: plan for name, (plan, *others) in wanted.items() if plan and not others and name not in slower}
        return LayerPlans(asked.dense | slower, plans)

    def _slower(
        self, model: onnx.ModelProto, feed: Feed, found: Sequence[tuple[Sequence[_Layer], TunedLayer]]
    ) -> set[str]:
        """Weights of the layers that had better be dense."""
        shapes = known_shapes(model, _sizes(model, feed))
        layers = {node.output[0]: layer for node, layer in candidates(model, shapes)}
        nanoseconds = 1e9 * (self._threads or this_machine().cores)  # of one thread
        saved: dict[str, float] = defaultdict(float)
        choices: dict[str, Choice] = {}
        for group, tuned in found:
            for one in group:
                layer = layers[one.node.output[0]]
                if layer.op == "Linear":
                    saved[one.weight] += tuned.dense - tuned.best
                    continue
                estimated = Choice.estimated(one.weight, layer)
                # What is measured of a layer by itself has conversions at both ends.
                choices[one.node.output[0]] = replace(
                    estimated,
                    dense=max(tuned.dense * nanoseconds - reordering_cost(layer), 0),
                    sparse=max(tuned.best * nanoseconds - estimated.reading - estimated.writing, 0),
                )
        return cheapest_dense(model, choices, shapes) | {name for name, seconds in saved.items() if seconds < 0}


class _Layer:
    """A sparse layer by itself: its node, constants, and sizes of its input."""

    def __init__(self, node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto], x: tuple[int, ...]) -> None:
        self.node, self.x = node, x
        self.weight = weight_name(node)
        self._constants = [stored[name] for name in node.input if name in stored]
        self.kept = math.prod(stored[node.input[VALUES]].dims)

    @property
    def key(self) -> tuple[object, ...]:
        """The same for layers that take the same time."""
        attributes = sorted(item.SerializeToString() for item in self.node.attribute)
        return self.node.op_type, tuple(attributes), len(self.node.input), self.x, self.kept

    def __str__(self) -> str:
        shape = weight_shape(self.node)
        sparsity = 1 - self.kept / math.prod(shape)
        return f"{self.node.op_type} {_times(shape)} on {_times(self.x)}, {sparsity:.1%} sparse"

    @property
    def shape(self) -> list[int]:
        """As :func:`~sift_cli.runtime.library.plans` takes it."""
        weight = weight_shape(self.node)
        if len(weight) == 2:
            return [weight[1], weight[0], math.prod(self.x[:-1])]
        images, channels, height, width = self.x
        window = (attribute(self.node, name) for name in ("strides", "dilations", "pads"))
        numbers = (number for each in window for number in each)
        return [channels, height, width, weight[0], *weight[2:], *numbers, attribute(self.node, "group"), images]

    def model(self, plan: str | None = None) -> onnx.ModelProto:
        """A model of it alone, which names its inputs as the whole one does."""
        node = onnx.NodeProto()
        node.CopyFrom(self.node)
        if plan is not None:
            node.attribute.append(helper.make_attribute(PLAN, plan))
        constants = {tensor.name for tensor in self._constants}
        varying = dict.fromkeys(name for name in node.input if name and name not in constants)
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, self.x if name == node.input[X] else None)
            for name in varying
        ]
        output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        return helper.make_model(
            helper.make_graph([node], "layer", inputs, [output], self._constants),
            functions=fallback.functions({node.op_type}, OPSET),
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
            ir_version=IR_VERSION,
        )

    def feed(self) -> Feed:
        y = known_shapes(self.model(), {})[self.node.output[0]]
        sizes = {name: y for name in self.node.input[RESIDUAL:]} | {self.node.input[X]: self.x}
        rng = np.random.default_rng(0)
        return {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}


def _sizes(model: onnx.ModelProto, feed: Feed) -> dict[str, int]:
    """Sizes that the model's symbolic dimensions have for ``feed``."""
    return {
        dim.dim_param: size
        for value in model.graph.input
        if value.name in feed
        for dim, size in zip(value.type.tensor_type.shape.dim, feed[value.name].shape, strict=True)
        if dim.dim_param
    }


def _input_shapes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], feed: Feed) -> dict[str, tuple[int, ...]]:
    """Shapes of what the layers read, when the model runs."""
    names = list(dict.fromkeys(node.input[X] for node in nodes if node.input[X] not in feed))
    arrays = session(showing(model, names)).run(names, feed) if names else []
    return {name: array.shape for name, array in [*feed.items(), *zip(names, arrays, strict=True)]}


def _measured(layers: Sequence[_Layer], threads: int | None) -> TunedLayer:
    layer, feed = layers[0], layers[0].feed()

    def peer(name: str, model: onnx.ModelProto) -> OnnxRuntime:
        return OnnxRuntime(name, session(model.SerializeToString(), threads=threads), feed)

    _, *others = plans(layer.shape, layer.kept)
    tried = sorted((_least_seconds(peer(plan, layer.model(plan))), plan) for plan in others)
    finalists = [plan for _, plan in tried[:_FINALISTS]]
    peers = [peer("usual", layer.model()), peer("dense", plain(layer.model()))]
    peers += [peer(plan, layer.model(plan)) for plan in finalists]
    (usual, *rest), _ = compare(peers, seconds=_FINAL)
    ratios = {measured.name: measured.ratio.median for measured in rest if measured.ratio}
    seconds, dense = usual.seconds.median, ratios.pop("dense")
    best, ratio = min(ratios.items(), key=lambda item: item[1], default=("", math.inf))
    gains = ratio <= GAIN
    return TunedLayer(
        weights=tuple(dict.fromkeys(layer.weight for layer in layers)),
        layer=str(layer),
        dense=seconds * dense,
        usual=seconds,
        best=seconds * (ratio if gains else 1),
        plan=best if gains else None,
    )


def _least_seconds(peer: OnnxRuntime) -> float:
    """Of one run: a first glance."""
    peer.run(1)
    runs = list(peer.run(_TRIES))
    while sum(runs) < _SECONDS:
        runs += peer.run(len(runs))
    return min(runs)


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
