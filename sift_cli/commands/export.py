"""Write a model as ONNX, with sift's operators for its sparse layers, or as a safetensors artifact.

MODEL may also be an ONNX model that another tool pruned: the layers with zeros in them become sparse.

Examples:

    sift export r18w90.safetensors --format onnx -o r18w90.onnx

    sift export r18w90.safetensors -o copy.safetensors

    sift export pruned.onnx -o fast.onnx

    sift export r18w90.safetensors -o half.onnx --dtype fp16

    sift export r18w90.safetensors -o tuned.onnx --tune --threads 2
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._ask import choosing
from sift_cli.commands._options import (
    AllowPickle,
    Arch,
    Force,
    InputArrays,
    InputShape,
    MinSparsity,
    Output,
    Source,
)


class Format(StrEnum):
    onnx = "onnx"
    safetensors = "safetensors"
    folder = "folder"


class Dtype(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


def command(
    model: Source,
    output: Output,
    format: Annotated[Format | None, typer.Option(help="By default what the output's suffix says.")] = None,
    opset: Annotated[int | None, typer.Option(min=1, help="Version of the standard ONNX operators.")] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="What weights are stored as. Operators compute in float32 in any case.")
    ] = Dtype.fp32,
    arch: Arch = None,
    input_shape: InputShape = None,
    input_npz: InputArrays = None,
    min_sparsity: MinSparsity = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure here which layers are faster dense, and how the others are fastest.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to tune for; by default one a core.")] = None,
    allow_pickle: AllowPickle = False,
    force: Force = False,
) -> None:
    written = choosing(
        f"exporting {model}",
        api.export, model, output=output, format=format.value if format else None, opset=opset,
        dtype=dtype.value, force=force, arch=arch, allow_pickle=allow_pickle, input_shape=input_shape,
        input_arrays=input_npz, min_sparsity=min_sparsity, tune=tune, threads=threads,
    )  # fmt: skip
    _output.written("export", written, tuned=[layer.to_json() for layer in written.tuned])
