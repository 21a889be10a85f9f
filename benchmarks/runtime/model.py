"""Claim: a whole exported model runs faster with sift's kernels than dense in plain onnxruntime, from the same file.

    python benchmarks/runtime/model.py [--model torchvision:resnet18] [--sparsity 0.5 0.75 0.9] [--threads 1 2]

transforms the model with widths that are a multiple of 8, exports it, and prints a markdown table. Three sessions of
one process take turns as in ``sift bench``: the original model dense, the wide model dense (the file's
fallback functions, folded by onnxruntime), and the wide model with sift.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnxruntime

from sift_cli import api


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:resnet18")
    parser.add_argument("--sparsity", nargs="+", default=["0.5", "0.75", "0.9"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10.0, help="for the rounds of a row")
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
                report = api.bench(graph, vs=("dense", str(original)), threads=[threads], seconds=arguments.seconds)
                sift, dense, first = report.comparisons[0].peers
                cells = [f"{peer.seconds.median * 1e3:.1f}" for peer in (first, dense, sift)]
                ratios = [f"{dense.ratio.median:.2f}", f"{1 / first.ratio.median:.2f}"]
                print(f"| {sparsity} | {threads} | {' | '.join(cells + ratios)} |", flush=True)


if __name__ == "__main__":
    main()
