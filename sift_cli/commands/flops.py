"""Count MACs and FLOPs (= 2 × MACs), dense and by nonzeros, for one forward pass of one sample.

Examples:

    sift flops model.onnx

    sift flops torchvision:resnet18 --by operator

    sift flops r18w90.safetensors --json
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._ask import choosing
from sift_cli.commands._options import AllowPickle, Arch, InputArrays, InputShape, Json, Source


class Count(StrEnum):
    macs = "macs"
    official = "official"


class Counter(StrEnum):
    fvcore = "fvcore"
    dispatch = "dispatch"


class By(StrEnum):
    layer = "layer"
    operator = "operator"


def command(
    model: Source,
    count: Annotated[
        Count, typer.Option(help="macs: convolutions, linears, attention. official: the Sparse-IFT authors' profiler.")
    ] = Count.macs,
    counter: Annotated[
        Counter, typer.Option(help="What counts a torch model; the other one checks it.")
    ] = Counter.fvcore,
    by: Annotated[By, typer.Option(help="Rows of the table.")] = By.layer,
    dim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=SIZE", help="Size of a symbolic dimension of an ONNX model.")
    ] = None,
    arch: Arch = None,
    input_shape: InputShape = None,
    input_npz: InputArrays = None,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    report = choosing(
        f"counting {model}",
        api.flops, model, count=count.value, counter=counter.value, arch=arch, allow_pickle=allow_pickle,
        input_shape=input_shape, input_arrays=input_npz, dims=_dims(dim or []),
    )  # fmt: skip
    if json:
        _output.data(report.to_json())
        return
    if by is By.layer:
        _output.table(
            "",
            ["layer", "op", "dense MACs", "sparse MACs", "density"],
            ([x.name, x.op, x.dense, x.sparse, f"{x.density:.4f}"] for x in report.layers),
            left=2,
        )  # fmt: skip
    else:
        _output.table(
            "",
            ["operator", "dense MACs", "sparse MACs"],
            ([op, *macs] for op, macs in report.by_operator().items()),
        )
    _output.text(f"dense   {report.dense:>18,} MACs {2 * report.dense:>18,} FLOPs")
    _output.text(f"sparse  {report.sparse:>18,} MACs {2 * report.sparse:>18,} FLOPs")
    if report.total is not None:
        _output.text(f"total   {report.total:>18,} operations by the {report.convention} convention")
    if report.uncounted:
        _output.text("not counted: " + ", ".join(f"{u.op} × {u.times}" for u in report.uncounted))


def _dims(texts: list[str]) -> dict[str, int]:
    dims = {}
    for text in texts:
        name, _, size = text.partition("=")
        if not name or not size.isdecimal() or int(size) < 1:
            raise typer.BadParameter(f"{text!r} is not NAME=SIZE", param_hint="--dim")
        dims[name] = int(size)
    return dims
