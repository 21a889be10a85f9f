"""Claim: sparse models run faster with sift than in DeepSparse, and than dense in onnxruntime.

    python benchmarks/runtime/peers.py --folder FOLDER [--models r18-wide-90 …] [--batch 1 16] [--threads 1 2]

makes the models in FOLDER, times each as ``sift bench`` does, and prints a markdown table. Models and times that are
there already are kept, so that a run can be resumed; ``--again`` times anew. ``--peer-python`` (or SIFT_PEER_PYTHON)
names an interpreter with DeepSparse; without one its columns are empty.

The models: Sparse-Wide ResNet-18 and MobileNetV2 of torchvision, beside the dense models that they come from, with as
many MACs; the layers of BERT-base and GPT-2 small on embeddings, each linear layer pruned by magnitude, from the ONNX
file that DeepSparse gets too; and a whole BERT-base, Sparse-Wide. "dense" is the same file in plain onnxruntime,
"original" the dense model in plain onnxruntime. Weights are seeded and not trained: that changes no time.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from sift_cli import api
from sift_cli.runtime.remote import ENVIRONMENT

#: The opset that exporters wrote in DeepSparse's time: it runs all of these graphs on kernels of its own.
OPSET_OF_THE_PRUNED = 14
LENGTH, WIDTH = 128, 768


@dataclass(frozen=True)
class Files:
    """A model's files: what sift runs, the dense original, and what DeepSparse gets if it is not what sift runs."""

    sparse: Path
    original: Path
    pruned: Path | None = None


def made(path: Path, make: Callable[[Path], object]) -> Path:
    """``path``, made unless it is there; never half of it."""
    if not path.exists():
        temporary = path.with_stem(f"{path.stem}.part")
        temporary.unlink(missing_ok=True)
        make(temporary)
        temporary.rename(path)
    return path


def wide(folder: Path, source: str, sparsity: str, shape: tuple[int, ...] | None = None) -> Files:
    stem = source.rpartition(":")[2].replace("/", "-")
    given: dict[str, Any] = {"input_shape": shape}
    options = {**given, "sparsity": sparsity, "multiple": 8}
    original = made(folder / f"{stem}.onnx", lambda path: api.export(source, path, **given))
    artifact = made(folder / f"{stem}-wide-{sparsity}.safetensors", lambda path: api.transform(source, path, **options))
    return Files(made(folder / f"{stem}-wide-{sparsity}.onnx", lambda path: api.export(artifact, path)), original)


def pruned(folder: Path, name: str, sparsity: str) -> Files:
    original = made(folder / f"{name}-traced.onnx", lambda path: trace(name, path))
    zeros = made(folder / f"{name}-pruned-{sparsity}.onnx", lambda path: prune(original, float(sparsity), path))
    return Files(made(folder / f"{name}-sparse-{sparsity}.onnx", lambda path: api.export(zeros, path)), original, zeros)


def trace(name: str, path: Path) -> None:
    """Export a model of ``encoders.py`` as it was done in DeepSparse's time."""
    import encoders
    import torch

    torch.manual_seed(0)
    torch.onnx.export(
        getattr(encoders, name)().eval(),
        (torch.randn(2, LENGTH, WIDTH),),
        path,
        dynamo=False,
        opset_version=OPSET_OF_THE_PRUNED,
        input_names=["x"],
        output_names=["output"],
        dynamic_axes={"x": {0: "batch", 1: "length"}},
    )


def prune(original: Path, sparsity: float, path: Path) -> None:
    """Make the smallest weights of each matrix 0."""
    model = onnx.load(original)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2:
            weight = numpy_helper.to_array(tensor).copy()
            zeros = round(sparsity * weight.size)
            weight.reshape(-1)[np.argpartition(np.abs(weight).reshape(-1), zeros)[:zeros]] = 0
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, path)


#: With embeddings and a head: what faces a model's outside keeps its width.
WHOLE_BERT = "transformers:bert/BertForSequenceClassification"
MODELS: dict[str, Callable[[Path], Files]] = {
    **{f"r18-wide-{s}": lambda folder, s=s: wide(folder, "torchvision:resnet18", f"0.{s}") for s in (50, 75, 90)},
    **{f"mbv2-wide-{s}": lambda folder, s=s: wide(folder, "torchvision:mobilenet_v2", f"0.{s}") for s in (75, 90)},
    **{f"bert-pruned-{s}": lambda folder, s=s: pruned(folder, "Bert", f"0.{s}") for s in (80, 90)},
    "bert-wide-75": lambda folder: wide(folder, WHOLE_BERT, "0.75", (1, LENGTH)),
    **{f"gpt2-pruned-{s}": lambda folder, s=s: pruned(folder, "Gpt2", f"0.{s}") for s in (75, 90)},
    # One token: as when decoding, without the few products with the tokens before it.
    **{f"gpt2-pruned-{s}-token": lambda folder, s=s: pruned(folder, "Gpt2", f"0.{s}") for s in (75, 90)},
}


def inputs(folder: Path, name: str, batch: int) -> tuple[str, ...]:
    """An input file where the model does not say its sizes: sequences of embeddings."""
    if "pruned" not in name:
        return ()
    length = 1 if name.endswith("-token") else LENGTH
    path = folder / f"x-{batch}x{length}.npy"
    rng = np.random.default_rng(0)
    made(path, lambda temporary: np.save(temporary, rng.standard_normal((batch, length, WIDTH)).astype(np.float32)))
    return (str(path),)


def timed(folder: Path, name: str, batch: int, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The report of ``sift bench``, from an earlier run if there was one."""
    isa = os.environ.get("SIFT_FORCE_ISA")
    path = folder / f"times-{name}-b{batch}-t{threads}{f'-{isa}' if isa else ''}.json"
    if arguments.again or not path.exists():
        files = MODELS[name](folder)
        peers = ["dense", str(files.original)]
        if arguments.peer_python:
            peers.append(f"deepsparse:{files.pruned}" if files.pruned else "deepsparse")
        report = api.bench(
            files.sparse,
            vs=peers,
            inputs=inputs(folder, name, batch),
            batch=batch,
            threads=[threads],
            seconds=arguments.seconds,
            peer_python=arguments.peer_python,
        )
        path.write_text(json.dumps(report.to_json(), indent=1))
    return json.loads(path.read_text())


def row(report: dict[str, Any]) -> list[str]:
    sift, dense, original, *deepsparse = report["comparisons"][0]["peers"]
    cells = [f"{sift['seconds']['median'] * 1e3:.1f}"]
    for peer in (deepsparse[0] if deepsparse else None, dense, original):
        cells.append(f"{peer['seconds']['median'] * 1e3:.1f}" if peer else "")
        cells.append("{median:.2f} ({p10:.2f} … {p90:.2f})".format(**peer["ratio"]) if peer else "")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for models and times, several GB")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=20.0, help="for the rounds of a row")
    parser.add_argument("--peer-python", default=os.environ.get(ENVIRONMENT))
    parser.add_argument("--again", action="store_true", help="time anew what was timed before")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)

    print("| model | batch | threads | sift ms | DeepSparse ms | / sift | dense ms | / sift | original ms | / sift |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        for batch in arguments.batch:
            for threads in arguments.threads:
                report = timed(arguments.folder, name, batch, threads, arguments)
                print(f"| {name} | {batch} | {threads} | {' | '.join(row(report))} |", flush=True)
    machine = report["machine"]
    print(f"\n{machine['cpu']}, {machine['cores']} cores, {machine['forced_isa'] or machine['isas'][0]}")
    print("; ".join(sorted({peer["engine"] for peer in report["comparisons"][0]["peers"]})))


if __name__ == "__main__":
    main()
