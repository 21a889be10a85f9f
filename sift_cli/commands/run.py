"""Run an ONNX model in onnxruntime with sift's kernels, on given or random inputs.

Examples:

    sift run r18w90.onnx

    sift run r18w90.onnx --input image.npy --output logits.npy

    sift run r18w90.onnx --batch 5 --no-library
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._options import Force


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX model.")],
    input: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE.npy|SHAPE", help="An input, or the shape of a random one: 1x128x768."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the first output to a .npy, or all of them to a .npz.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch of random inputs.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of random inputs.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads within an op; by default one a core.")] = None,
    library: Annotated[
        bool, typer.Option("--library/--no-library", help="Without it onnxruntime runs the fallback functions.")
    ] = True,
    force: Force = False,
) -> None:
    with _output.working(f"running {model}"):
        result = api.run(
            model,
            inputs=input or (),
            output=output,
            batch=batch,
            seed=seed,
            threads=threads,
            library=library,
            force=force,
        )
    if _output.wants_json():
        _output.data(result.to_json())
        return
    if result.kernels:
        _output.table(
            "", ["node", "op", "kernel", "isa"], ([k.node, k.op, k.kernel, k.isa] for k in result.kernels), left=4
        )
    for name, array in result.outputs.items():
        _output.text(
            f"{name}: {'×'.join(map(str, array.shape))} {array.dtype}, from {array.min():.6g} to {array.max():.6g}"
        )
    _output.text(f"{result.seconds * 1000:.1f} ms for one run after a first one, onnxruntime {result.onnxruntime}")
    if output is not None:
        _output.text(f"wrote {output}")
