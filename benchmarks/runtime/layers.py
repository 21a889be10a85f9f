"""Claim: at 90 % sparsity a sparse layer is not slower than the same layer dense in onnxruntime.

    python benchmarks/runtime/layers.py [--sparsity 0.9] [--threads 1 2] [--seconds 1]
    python benchmarks/runtime/layers.py --thresholds [--threads 1]

print markdown tables. The second, how many times as fast as dense a layer is, for many kinds of layers at many
sparsities, is what ``sift_cli/export/worth.py`` decides by. Both peers are sessions of one process and take turns as in
``sift bench``; the ratio is the median of those within a round. The layers of the first are those of Sparse-Wide
ResNet-18 at 224² (w90: 202/404/808/1616 channels) and linear layers of a BERT-base size.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sift_cli import runtime
from sift_cli.runtime.bench import Measured, compare
from sift_cli.runtime.peers import OnnxRuntime

#: channels in, channels out, kernel, stride, image size in
CONVOLUTIONS = [
    (202, 202, 3, 1, 56),
    (202, 404, 3, 2, 56),
    (202, 404, 1, 2, 56),
    (404, 404, 3, 1, 28),
    (404, 808, 3, 2, 28),
    (404, 808, 1, 2, 28),
    (808, 808, 3, 1, 14),
    (808, 1616, 3, 2, 14),
    (808, 1616, 1, 2, 14),
    (1616, 1616, 3, 1, 7),
]
#: inputs, outputs, rows
LINEARS = [(768, 3072, rows) for rows in (1, 4, 16, 128, 512)] + [(3072, 768, rows) for rows in (1, 16, 128, 512)]


#: channels in, channels out, kernel, stride, image size in, groups
KINDS = [
    *((64, 256, 1, 1, 56, 1), (256, 64, 1, 1, 56, 1), (96, 24, 1, 1, 56, 1), (512, 128, 1, 1, 28, 1)),
    *((1024, 256, 1, 1, 14, 1), (160, 960, 1, 1, 7, 1), (2048, 512, 1, 1, 7, 1), (64, 64, 1, 1, 14, 1)),
    *((256, 512, 1, 2, 56, 1), (202, 404, 1, 2, 56, 1), (1024, 2048, 1, 2, 14, 1), (64, 128, 1, 2, 28, 1)),
    *((16, 16, 3, 1, 32, 1), (64, 64, 3, 1, 56, 1), (128, 128, 3, 1, 28, 1), (256, 256, 3, 1, 14, 1)),
    *((512, 512, 3, 1, 7, 1), (64, 64, 3, 1, 7, 1), (64, 128, 3, 2, 56, 1), (256, 512, 3, 2, 14, 1)),
    *((3, 64, 7, 2, 224, 1), (3, 32, 3, 2, 224, 1), (64, 64, 5, 1, 28, 1), (512, 512, 3, 1, 1, 1)),
    *((64, 64, 3, 1, 4, 1), (512, 512, 3, 1, 4, 1), (512, 512, 1, 1, 4, 1), (24, 144, 1, 1, 56, 1)),
    *((128, 128, 3, 1, 56, 32), (512, 512, 3, 1, 14, 32), (256, 256, 3, 1, 14, 8), (256, 256, 3, 1, 14, 2)),
    *((96, 96, 3, 1, 56, 96), (960, 960, 3, 1, 7, 960), (768, 768, 7, 1, 7, 768)),
]
#: inputs, outputs
MATRICES = [(64, 64), (128, 128), (256, 256), (384, 384), (768, 768), (768, 3072), (3072, 768), (2048, 1000), (512, 10)]
ROWS = [1, 4, 8, 16, 32, 64, 128, 512]
SPARSITIES = [0.5, 0.6, 0.7, 0.75, 0.8, 0.9]


def model(op: str, domain: str, weights: dict[str, np.ndarray], **attributes: Any) -> bytes:
    """A model of one node, its weights as initializers."""
    node = helper.make_node(op, ["X", *weights], ["Y"], domain=domain, name="layer", **attributes)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("sift", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def pruned(shape: tuple[int, ...], sparsity: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Random weights at exactly this sparsity: dense, and as the sparse op's inputs."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape).astype(np.float32)
    kept = np.ones(weight.size, np.bool_)
    kept[rng.permutation(weight.size)[: round(sparsity * weight.size)]] = False
    weight.reshape(-1)[~kept] = 0
    return weight, {"bitmask": np.packbits(kept, bitorder="little"), "values": weight.reshape(-1)[kept]}


def convolution(layer: tuple[int, ...], sparsity: float, batch: int) -> tuple[str, bytes, bytes, np.ndarray]:
    channels, filters, kernel, stride, size, group = (*layer, 1)[:6]
    weight, parts = pruned((filters, channels // group, kernel, kernel), sparsity)
    bias = {"bias": np.zeros(filters, np.float32)}
    where = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "dilations": [1, 1], "group": group}
    dense = model("Conv", "", {"weight": weight, **bias}, kernel_shape=[kernel] * 2, **where)
    sparse = model("SparseConv", "sift", {**parts, **bias}, weight_shape=list(weight.shape), **where)
    x = np.random.default_rng(1).standard_normal((batch, channels, size, size)).astype(np.float32)
    groups = f" in {group} groups" if group > 1 else ""
    return f"conv {channels}→{filters} {kernel}×{kernel}/{stride} at {size}²{groups}, batch {batch}", dense, sparse, x


def linear(layer: tuple[int, ...], sparsity: float) -> tuple[str, bytes, bytes, np.ndarray]:
    inputs, outputs, rows = layer
    weight, parts = pruned((outputs, inputs), sparsity)
    bias = {"bias": np.zeros(outputs, np.float32)}
    dense = model("Gemm", "", {"weight": weight, **bias}, transB=1)
    sparse = model("SparseLinear", "sift", {**parts, **bias}, weight_shape=list(weight.shape))
    x = np.random.default_rng(1).standard_normal((rows, inputs)).astype(np.float32)
    return f"linear {inputs}→{outputs}, {rows} rows", dense, sparse, x


def times(dense: bytes, sparse: bytes, x: np.ndarray, threads: int, seconds: float) -> tuple[str, Measured, Measured]:
    """The kernel that ran, and what the sparse and the dense layer took."""
    opened = runtime.session(sparse, threads=threads)
    ours = OnnxRuntime("sparse", opened, {"X": x})
    theirs = OnnxRuntime("dense", runtime.session(dense, threads=threads), {"X": x}, ours.outputs)
    if theirs.difference > 1e-4:
        raise SystemExit("the peers disagree: nothing to compare")
    measured, _ = compare([ours, theirs], seconds=seconds)
    (ran,) = runtime.kernels(opened)
    return f"{ran.kernel}/{ran.isa}", *measured


def thresholds(threads: int, seconds: float, batch: int, only: str) -> None:
    """A row a layer, a column a sparsity: times that the sparse one is as fast as the dense one."""
    print("| layer | threads | kernel | " + " | ".join(f"{s:.0%}" for s in SPARSITIES))
    print("|---|---|---|" + "---|" * len(SPARSITIES))
    makers = [functools.partial(convolution, layer, batch=batch) for layer in KINDS]
    makers += [functools.partial(linear, (*matrix, rows)) for matrix in MATRICES for rows in ROWS]
    for make in makers:
        name, cells, kernel = make(sparsity=SPARSITIES[0])[0], [], ""
        if only not in name:
            continue
        for sparsity in SPARSITIES:
            kernel, _, theirs = times(*make(sparsity=sparsity)[1:], threads, seconds)
            cells.append(f"{theirs.ratio.median:.2f}" if theirs.ratio else "")
        print(f"| {name} | {threads} | {kernel} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="for the rounds of a layer")
    parser.add_argument("--batch", type=int, default=1, help="images for the convolutions")
    parser.add_argument("--only", default="", help="a word that the layers' names must contain")
    parser.add_argument("--thresholds", action="store_true", help="many kinds of layers at many sparsities")
    arguments = parser.parse_args()
    if arguments.thresholds:
        for threads in arguments.threads:
            thresholds(threads, arguments.seconds, arguments.batch, arguments.only)
        return

    layers = [convolution(layer, arguments.sparsity, arguments.batch) for layer in CONVOLUTIONS]
    layers += [linear(layer, arguments.sparsity) for layer in LINEARS]
    print(f"onnxruntime {onnxruntime.__version__}, sparsity {arguments.sparsity}\n")
    print("| layer | kernel | threads | dense ms | sparse ms | dense / sparse |\n|---|---|---|---|---|---|")
    for name, dense, sparse, x in layers:
        if arguments.only not in name:
            continue
        for threads in arguments.threads:
            kernel, ours, theirs = times(dense, sparse, x, threads, arguments.seconds)
            cells = (theirs.seconds.median * 1e3, ours.seconds.median * 1e3)
            print(
                f"| {name} | {kernel} | {threads} | {cells[0]:.3f} | {cells[1]:.3f} | {theirs.ratio.median:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
