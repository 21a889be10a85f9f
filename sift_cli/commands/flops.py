"""Count MACs and FLOPs (= 2 × MACs), dense and by nonzeros, for one forward pass of one sample.

Examples:

    sift flops model.onnx

    sift flops torchvision:resnet18 --by operator

    sift flops r18w90.safetensors --json

    sift flops r18w90.safetensors --training

    sift flops transformers:gpt2 --count paper-gpt --input 1x1024 --sequences 2283520
"""

from __future__ import annotations

from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._ask import choosing
from sift_cli.commands._options import AllowPickle, Arch, Dim, InputArrays, InputShape, Source, sizes

if TYPE_CHECKING:
    from sift_cli.core.counts import FlopReport
    from sift_cli.flops.training import TrainingReport


class Count(StrEnum):
    macs = "macs"
    official = "official"
    paper_gpt = "paper-gpt"


class Counter(StrEnum):
    fvcore = "fvcore"
    dispatch = "dispatch"


class By(StrEnum):
    layer = "layer"
    operator = "operator"


def command(
    model: Source,
    count: Annotated[
        Count,
        typer.Option(
            help="macs: convolutions, linears, attention. official: the Sparse-IFT authors' profiler. "
            "paper-gpt: their FLOPs of a training step of a GPT on one sequence."
        ),
    ] = Count.macs,
    counter: Annotated[
        Counter, typer.Option(help="What counts a torch model; the other one checks it.")
    ] = Counter.fvcore,
    by: Annotated[By, typer.Option(help="Rows of the table.")] = By.layer,
    sequences: Annotated[
        int | None, typer.Option(min=1, help="Training sequences, for a total under --count paper-gpt.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="FLOPs of a training step instead, by training method.")
    ] = False,
    interval: Annotated[int, typer.Option(min=1, help="Steps between two updates of the masks in training.")] = 100,
    window: Annotated[float, typer.Option(min=0, max=1, help="Share of a training in which masks are updated.")] = 0.75,
    dim: Dim = None,
    arch: Arch = None,
    input_shape: InputShape = None,
    input_npz: InputArrays = None,
    allow_pickle: AllowPickle = False,
) -> None:
    if sequences is not None and count is not Count.paper_gpt:
        raise typer.BadParameter("only --count paper-gpt counts sequences", param_hint="--sequences")
    if training and count is not Count.macs:
        raise typer.BadParameter(f"--count {count} does not go with --training", param_hint="--training")
    counting = {
        "counter": counter.value, "arch": arch, "allow_pickle": allow_pickle, "input_shape": input_shape,
        "input_arrays": input_npz, "dims": sizes(dim),
    }  # fmt: skip
    if training:
        costs = choosing(
            f"counting {model}",
            api.training_flops, model, interval=interval, window=Fraction(str(window)), **counting,
        )  # fmt: skip
        _output.data(costs.to_json()) if _output.wants_json() else _print_training(costs)
        return
    report = choosing(f"counting {model}", api.flops, model, count=count.value, **counting)
    if not _output.wants_json():
        _print(report, by, sequences)
        return
    document = report.to_json()
    if sequences is not None and report.total is not None:
        document |= {"sequences": sequences, "total_of_sequences": sequences * report.total}
    _output.data(document)


def _print(report: FlopReport, by: By, sequences: int | None) -> None:
    if by is By.layer:
        _output.table(
            "",
            ["layer", "op", "dense MACs", "sparse MACs", "density"],
            ([x.name, x.op, x.dense, x.sparse, f"{x.density:.4f}"] for x in report.layers),
            left=2,
        )
    else:
        _output.table(
            "",
            ["operator", "dense MACs", "sparse MACs"],
            ([op, *macs] for op, macs in report.by_operator().items()),
        )
    _output.text(f"dense   {report.dense:>18,} MACs {2 * report.dense:>18,} FLOPs")
    _output.text(f"sparse  {report.sparse:>18,} MACs {2 * report.sparse:>18,} FLOPs")
    if report.total is not None:
        unit = "FLOPs of a training step on one sequence" if report.convention == "paper-gpt" else "operations"
        _output.text(f"total   {report.total:>18,} {unit} by the {report.convention} convention")
        if sequences is not None:
            _output.text(f"        {sequences * report.total:>18.4E} FLOPs for {sequences:,} sequences")
    if report.uncounted:
        _output.text("not counted: " + ", ".join(f"{u.op} × {u.times}" for u in report.uncounted))


def _print_training(report: TrainingReport) -> None:
    _output.table(
        "",
        ["method", "FLOPs a step while masks move", "after", "on average", "training / dense"],
        (
            [
                cost.method,
                round(cost.updating),
                round(cost.after),
                round(cost.average),
                f"{float(report.relative(cost)):.4f}",
            ]
            for cost in report.costs
        ),
    )
    _output.text(
        f"a step on one sample, forward and backward, 2 FLOPs a MAC; the dense model {report.baseline:,}; masks move "
        f"in {float(report.window):.0%} of the steps, every {report.interval} steps"
    )
