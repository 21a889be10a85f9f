"""Claim: a whole exported model runs faster with sift's kernels than dense in plain onnxruntime, from the same file.

    python benchmarks/runtime/model.py [--model torchvision:resnet18] [--sparsity 0.5 0.75 0.9] [--threads 1 2]

transforms the model with widths that are a multiple of 8, exports it, and prints a markdown table. Three sessions of
one process take turns, each turn as in ``layers.py``: the original model dense, the wide model dense (the file's
fallback functions, folded by onnxruntime), and the wide model with sift.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from pathlib import Path

import onnxruntime
from layers import turn

from sift_cli import api, runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:resnet18")
    parser.add_argument("--sparsity", nargs="+", default=["0.5", "0.75", "0.9"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()

    print(f"{arguments.model}, onnxruntime {onnxruntime.__version__}, batch 1\n")
    print("| sparsity | threads | original ms | wide dense ms | wide sift ms | wide dense / sift | sift / original |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        original, artifact, graph = (Path(folder) / name for name in ("o.onnx", "w.safetensors", "w.onnx"))
        api.export(arguments.model, original)
        for sparsity in arguments.sparsity:
            api.transform(arguments.model, artifact, sparsity=sparsity, multiple=8, force=True)
            api.export(artifact, graph, force=True)
            for threads in arguments.threads:
                files = ((original, False), (graph, False), (graph, True))
                peers = [runtime.session(path, threads=threads, library=library) for path, library in files]
                feed = runtime.random_inputs(peers[0])
                runs = [functools.partial(peer.run, None, feed) for peer in peers]
                rounds = [[turn(run) for run in runs] for _ in range(arguments.rounds)]
                first, dense, sift = (statistics.median(column) for column in zip(*rounds, strict=True))
                cells = [f"{seconds * 1e3:.1f}" for seconds in (first, dense, sift)]
                ratios = [f"{dense / sift:.2f}", f"{sift / first:.2f}"]
                print(f"| {sparsity} | {threads} | {' | '.join(cells + ratios)} |", flush=True)


if __name__ == "__main__":
    main()
