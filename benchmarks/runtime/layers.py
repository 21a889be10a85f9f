"""Claim: at 90 % sparsity a sparse layer is not slower than the same layer dense in onnxruntime.

    python benchmarks/runtime/layers.py [--sparsity 0.9] [--threads 1 2] [--rounds 9]

prints a markdown table. Both peers are sessions of one process and take turns, several runs each; the first runs of a
turn are not timed (the other session's threads may still spin), and the figure is the median over all turns of each
turn's fastest run. The layers are those of Sparse-Wide ResNet-18 at 224² (w90: 202/404/808/1616 channels) and linear
layers of a BERT-base size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sift_cli import runtime

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
    channels, filters, kernel, stride, size = layer
    weight, parts = pruned((filters, channels, kernel, kernel), sparsity)
    bias = {"bias": np.zeros(filters, np.float32)}
    where = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "dilations": [1, 1], "group": 1}
    dense = model("Conv", "", {"weight": weight, **bias}, kernel_shape=[kernel] * 2, **where)
    sparse = model("SparseConv", "sift", {**parts, **bias}, weight_shape=list(weight.shape), **where)
    x = np.random.default_rng(1).standard_normal((batch, channels, size, size)).astype(np.float32)
    return f"conv {channels}→{filters} {kernel}×{kernel}/{stride} at {size}², batch {batch}", dense, sparse, x


def linear(layer: tuple[int, ...], sparsity: float) -> tuple[str, bytes, bytes, np.ndarray]:
    inputs, outputs, rows = layer
    weight, parts = pruned((outputs, inputs), sparsity)
    bias = {"bias": np.zeros(outputs, np.float32)}
    dense = model("Gemm", "", {"weight": weight, **bias}, transB=1)
    sparse = model("SparseLinear", "sift", {**parts, **bias}, weight_shape=list(weight.shape))
    x = np.random.default_rng(1).standard_normal((rows, inputs)).astype(np.float32)
    return f"linear {inputs}→{outputs}, {rows} rows", dense, sparse, x


def turn(run: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs."""
    begin = time.perf_counter()
    run()
    run()
    runs = max(2, min(20, int(0.05 / max((time.perf_counter() - begin) / 2, 1e-6))))
    fastest = float("inf")
    for _ in range(runs):
        begin = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - begin)
    return fastest


def compare(dense: bytes, sparse: bytes, x: np.ndarray, threads: int, rounds: int) -> tuple[float, float, str]:
    """Seconds dense, seconds sparse, and the kernel that ran."""
    peers = [runtime.session(file, threads=threads) for file in (dense, sparse)]
    outputs = [peer.run(None, {"X": x})[0] for peer in peers]
    scale = np.abs(outputs[0]).max()
    if not np.allclose(outputs[0], outputs[1], rtol=0, atol=1e-4 * scale):
        raise SystemExit("the peers disagree: nothing to compare")
    times = [[turn(lambda peer=peer: peer.run(None, {"X": x})) for peer in peers] for _ in range(rounds)]
    seconds = [statistics.median(column) for column in zip(*times, strict=True)]
    ran = runtime.kernels(peers[1])[0]
    return seconds[0], seconds[1], f"{ran.kernel}/{ran.isa}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=1, help="images for the convolutions")
    parser.add_argument("--only", default="", help="a word that the layers' names must contain")
    arguments = parser.parse_args()

    layers = [convolution(layer, arguments.sparsity, arguments.batch) for layer in CONVOLUTIONS]
    layers += [linear(layer, arguments.sparsity) for layer in LINEARS]
    print(f"onnxruntime {onnxruntime.__version__}, sparsity {arguments.sparsity}\n")
    print("| layer | kernel | threads | dense ms | sparse ms | dense / sparse |\n|---|---|---|---|---|---|")
    for name, dense, sparse, x in layers:
        if arguments.only not in name:
            continue
        for threads in arguments.threads:
            d, s, kernel = compare(dense, sparse, x, threads, arguments.rounds)
            print(f"| {name} | {kernel} | {threads} | {d * 1e3:.3f} | {s * 1e3:.3f} | {d / s:.2f} |", flush=True)


if __name__ == "__main__":
    main()
