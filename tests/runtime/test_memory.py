"""What a session keeps in memory: less than the dense model, and no more with every new image size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sift_cli.runtime import library_path

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see a process's memory")

#: Opens argv[1], runs an image of each size in argv[2], and prints the resident bytes before, and after each run.
RUN = """
import json, re, sys, numpy, onnxruntime
from pathlib import Path
from sift_cli.runtime import session

def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

sizes = json.loads(sys.argv[2])
session(sys.argv[3]).run(None, {"X": numpy.zeros((1, 1, 3, 3), numpy.float32)})  # what any session needs
seen = [resident()]
opened = session(sys.argv[1], threads=1)
channels = opened.get_inputs()[0].shape[1]
for height, width in sizes:
    opened.run(None, {"X": numpy.ones((1, channels, height, width), numpy.float32)})
    seen.append(resident())
print(json.dumps(seen))
"""


def write_model(path: Path, channels: int, layers: int, density: float, sparse: bool) -> Path:
    """3x3 convolutions in a row, their kept weights drawn at random; as SparseConv, or as Conv with zeros."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, initializers = [], []
    where = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    for layer in range(layers):
        weight = np.zeros((channels, channels, 3, 3), np.float32)
        kept = rng.random(weight.shape) < density
        weight[kept] = rng.standard_normal(np.count_nonzero(kept)) / (channels * density)
        x, y = ("X" if layer == 0 else f"x{layer}"), ("Y" if layer == layers - 1 else f"x{layer + 1}")
        if sparse:
            inputs = {"bitmask": np.packbits(kept.reshape(-1), bitorder="little"), "values": weight[kept]}
            kind = {"op_type": "SparseConv", "domain": "sift", "weight_shape": weight.shape}
        else:
            inputs, kind = {"weight": weight}, {"op_type": "Conv"}
        names = [f"{name}{layer}" for name in inputs]
        nodes.append(helper.make_node(inputs=[x, *names], outputs=[y], name=y, **kind, **where))
        initializers += [
            numpy_helper.from_array(array, name) for array, name in zip(inputs.values(), names, strict=True)
        ]
    info = [helper.make_tensor_value_info(name, 1, [1, channels, "h", "w"]) for name in ("X", "Y")]
    graph = helper.make_graph(nodes, "convolutions", info[:1], info[1:], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("sift", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def resident_bytes(model: Path, sizes: list[tuple[int, int]]) -> list[int]:
    """After opening and running ``model`` on each of ``sizes``, beyond what any session of one small layer has."""
    smallest = write_model(model.with_name("smallest.onnx"), 1, 1, 1.0, sparse=True)
    done = subprocess.run(
        [sys.executable, "-c", RUN, model, json.dumps(sizes), smallest],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SIFT_LIBRARY": library_path()},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    before, *after = json.loads(done.stdout)
    return [size - before for size in after]


def test_a_session_needs_less_memory_than_the_dense_model(library: str, tmp_path: Path) -> None:
    used = {}
    for sparse in (True, False):
        model = write_model(tmp_path / f"{sparse}.onnx", 512, 4, 0.1, sparse)
        (used[sparse],) = resident_bytes(model, [(14, 14)])
    weights = 4 * 512 * 512 * 9
    assert used[False] > weights * 4  # the measurement sees the weights
    # A kept weight takes 4 bytes as stored and 8 as the kernels read it, each weight a bit: a third of dense ones.
    assert used[True] < used[False] / 2


def test_new_image_sizes_take_the_place_of_old_ones(library: str, tmp_path: Path) -> None:
    channels, layers, density = 256, 4, 0.5
    model = write_model(tmp_path / "model.onnx", channels, layers, density, sparse=True)
    sizes = [(height, width) for height in range(8, 18) for width in range(20, 25)]
    after = resident_bytes(model, [(30, 30), *sizes])  # the largest first: it needs the largest buffers
    repacked = 8 * layers * channels * channels * 9 * density  # bytes, of one size
    # After ten sizes nothing is new; each of the forty behind them would need as much again.
    assert max(after[10:]) - after[10] < 4 * repacked
