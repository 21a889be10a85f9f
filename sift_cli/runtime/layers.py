"""Where the time of a model goes, node by node, as onnxruntime's profiler sees it.

The profiler is a run of its own: it costs a few microseconds a node, and what is compared is not to pay them.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sift_cli.errors import ModelError
from sift_cli.runtime.sessions import kernels, session

if TYPE_CHECKING:
    import onnx

#: From the name of a profiled node, its operator, and the names of all profiled nodes, to the name in the file of the
#: node that it stands for; None where onnxruntime made it by itself.
Origin = Callable[[str, str, set[str]], str | None]
_KERNEL = "_kernel_time"
_MADE = "(onnxruntime)"
#: "fused X", "X/MatMulAddFusion", "X/MatMulScaleFusion/": how onnxruntime names what it made of X and others.
_FUSED = re.compile(r"^(?:fused )?(.*?)(?:/\w*Fusion\w*/?)?$")
#: "v_nchwc" is the convolution that now makes the value v, together with what was between the two.
_BLOCKED = "_nchwc"
#: Runs before the ones that count, and the fewest and the most of those.
_SETTLING, _LEAST, _MOST = 3, 5, 100


@dataclass(frozen=True)
class NodeTime:
    """What one node took.

    Attributes:
        name: The node's name in the file, or "(onnxruntime)" for nodes of one kind that onnxruntime made by itself.
        op: Kind of operator that ran.
        kernel: Kernel and instruction set of a sift operator ("conv_patches/avx512"), None for any other.
        seconds: Median of its runs.
        share: Of the time of all nodes.
        dense: MACs of a run with every weight counted, None where the node has none that are counted.
        sparse: MACs of a run with kept weights only.
    """

    name: str
    op: str
    kernel: str | None
    seconds: float
    share: float
    dense: int | None = None
    sparse: int | None = None

    @property
    def useful_gflops(self) -> float | None:
        """10⁹ floating point operations a second, two a MAC, on kept weights."""
        return _rate(self.sparse, self.seconds)

    @property
    def dense_equivalent_gflops(self) -> float | None:
        """What a dense kernel had to reach to be as fast."""
        return _rate(self.dense, self.seconds)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "op": self.op,
            "kernel": self.kernel,
            "seconds": self.seconds,
            "share": self.share,
            "macs": None if self.dense is None else {"dense": self.dense, "sparse": self.sparse},
            "useful_gflops": self.useful_gflops,
            "dense_equivalent_gflops": self.dense_equivalent_gflops,
        }


def profile(
    model: Path, feed: Mapping[str, np.ndarray], *, threads: int | None, seconds: float
) -> tuple[NodeTime, ...]:
    """Run ``model`` with sift's kernels for about ``seconds``; its nodes in the order in which they ran.

    Args:
        model: The ONNX file.
        feed: Its inputs by name.
        threads: Threads within an op; None for one a core.
        seconds: Time to spend; there are at least five runs that count.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        opened = session(model, threads=threads, options=options)
        for _ in range(_SETTLING):
            begin = time.perf_counter()
            opened.run(None, dict(feed))
        runs = min(_MOST, max(_LEAST, round(seconds / (time.perf_counter() - begin))))
        for _ in range(runs):
            opened.run(None, dict(feed))
        events = json.loads(Path(opened.end_profiling()).read_text())
    ran = {report.node: f"{report.kernel}/{report.isa}" for report in kernels(opened)}
    graph = onnx.load(model, load_external_data=False).graph
    return tabulate(events, runs, ran, _origin(graph), _macs(model, graph, feed))


def tabulate(
    events: Iterable[Mapping[str, Any]],
    runs: int,
    ran: Mapping[str, str],
    origin: Origin,
    macs: Mapping[str, tuple[int, int]],
) -> tuple[NodeTime, ...]:
    """The profiler's events of the last ``runs`` runs as a table.

    Args:
        events: As onnxruntime writes them; times in microseconds.
        runs: How many of the last runs count.
        ran: Kernel by node, of sift's operators.
        origin: Which node of the file a profiled one stands for.
        macs: Dense and sparse MACs by node.
    """
    events = list(events)
    begin = sorted(event["ts"] for event in events if event["name"] == "model_run")[-runs]
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["ts"] >= begin and event["name"].endswith(_KERNEL):
            times[event["name"].removesuffix(_KERNEL), event["args"]["op_name"]].append(event["dur"] / 1e6)
    profiled = {name for name, _ in times}
    rows: dict[tuple[str, str], float] = defaultdict(float)
    for (name, op), spent in times.items():
        # A node in the body of a loop runs several times a run; so do two nodes without a name.
        rows[origin(name, op, profiled) or _MADE, op] += statistics.median(spent) * len(spent) / runs
    total = sum(rows.values())
    return tuple(
        NodeTime(name, op, ran.get(name), seconds, seconds / total if total else 0.0, *macs.get(name, (None, None)))
        for (name, op), seconds in rows.items()
    )


def _origin(graph: onnx.GraphProto) -> Origin:
    nodes = graph.node
    named = {node.name or node.output[0] for node in nodes}
    makes = {value: node for node in nodes for value in node.output}

    def origin(name: str, op: str, profiled: set[str]) -> str | None:
        if name in named:
            return name
        if (plain := _FUSED.sub(r"\1", name)) in named:
            return plain
        # Through nodes that are no more: they are part of the one that is looked for.
        waiting = [name.removesuffix(_BLOCKED)]
        while waiting:
            node = makes.get(waiting.pop())
            if node is None or node.name in profiled:
                continue
            if node.op_type == op:
                return str(node.name or node.output[0])
            waiting += node.input
        return None

    return origin


def _macs(model: Path, graph: onnx.GraphProto, feed: Mapping[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    """Dense and sparse MACs by node at the sizes of ``feed``; none of a model whose sizes cannot be named."""
    from sift_cli.flops import count_onnx

    sizes = {}
    for value in graph.input:
        array = feed.get(value.name)
        for dim, size in zip(value.type.tensor_type.shape.dim, array.shape if array is not None else (), strict=False):
            if dim.dim_param:
                sizes[dim.dim_param] = size
            elif not dim.HasField("dim_value") and size != 1:
                return {}
    try:
        report = count_onnx(model, dims=sizes)
    except ModelError:
        return {}
    macs: dict[str, tuple[int, int]] = {}
    for layer in report.layers:
        dense, sparse = macs.get(layer.name, (0, 0))
        macs[layer.name] = (dense + layer.dense, sparse + layer.sparse)
    return macs


def _rate(macs: int | None, seconds: float) -> float | None:
    return 2 * macs / seconds / 1e9 if macs is not None and seconds else None
