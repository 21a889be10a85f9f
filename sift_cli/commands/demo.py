"""Do the main job on an embedded example: the paper's ResNet-18 for CIFAR made wide and sparse (90 % by default),
exported, counted and run.

Examples:

    sift demo

    sift demo --output sift-demo
"""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._options import Force, Sparsity
from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import OutputUnwritable

MODEL = "builtin:cifar_resnet18"


def command(
    sparsity: Sparsity = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the files; by default they are thrown away.")
    ] = None,
    force: Force = False,
) -> None:
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputUnwritable(output, error.strerror or str(error)) from None
    folder: Any = nullcontext(output) if output is not None else tempfile.TemporaryDirectory(prefix="sift-demo-")
    with folder as name:
        _demo(
            Path(name),
            sparsity if sparsity is not None else parse_sparsity("0.9"),
            keep=output is not None,
            force=force,
        )


def _demo(folder: Path, sparsity: Any, *, keep: bool, force: bool) -> None:
    share = f"{float(sparsity):g}"
    artifact, graph = folder / f"demo-wide-{share}.safetensors", folder / f"demo-wide-{share}.onnx"
    _step(f"sift transform {MODEL} --kind wide --sparsity {share} -o {artifact.name}")
    with _output.working("transforming"):
        written = api.transform(MODEL, artifact, kind="wide", sparsity=sparsity, force=force)
    _step(f"sift export {artifact.name} --format onnx -o {graph.name}")
    with _output.working("exporting"):
        exported = api.export(artifact, graph, force=force)
    _step(f"sift flops {graph.name}")
    counted = api.flops(graph)
    _step(f"sift run {graph.name}")
    with _output.working("running"):
        fast = api.run(graph)
        plain = api.run(graph, library=False)
    claims = written.certificate + exported.certificate.claims
    plan = written.plan
    assert plan is not None
    dense = sum(layer.numel_after for layer in plan.layers) * 4
    if _output.wants_json():
        _output.data({
            "schema": "sift.demo/1", "certificate": claims.to_json(),
            "macs": {"before": plan.macs_before, "after": plan.macs_after, "onnx": counted.sparse},
            "bytes": {"safetensors": written.bytes, "onnx": exported.bytes, "dense": dense},
            "seconds": {"sift": fast.seconds, "onnxruntime": plain.seconds},
        })  # fmt: skip
        return
    _output.certificate(claims)
    wider = max(layer.numel_after / layer.numel_before for layer in plan.sparse_layers) if plan.sparse_layers else 1.0
    _output.text(f"{MODEL} with up to {wider:.2f} × the weights, sparsity {share}:")
    _output.text(
        f"  MACs    {plan.macs_before:,} dense before, {counted.sparse:,} sparse after (counted in the ONNX file)"
    )
    _output.text(
        f"  size    {_output.size(written.bytes)} safetensors, {_output.size(exported.bytes)} ONNX; "
        f"dense float32 of these widths: {_output.size(dense)}"
    )
    _output.text(
        f"  run     {fast.seconds * 1000:.1f} ms with sift's kernels, {plain.seconds * 1000:.1f} ms in plain "
        f"onnxruntime ({plain.seconds / fast.seconds:.1f} ×)"
    )
    _output.text(f"  kernels {', '.join(sorted({f'{k.kernel} ({k.isa})' for k in fast.kernels}))}")
    if keep:
        _output.text(f"  files   {artifact}, {graph}")


def _step(line: str) -> None:
    _output.note(f"$ {line}")
