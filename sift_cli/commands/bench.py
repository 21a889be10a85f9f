"""Measure how fast an ONNX model is with sift's kernels, beside peers that take turns with it.

Examples:

    sift bench r18w90.onnx --vs dense

    sift bench r18w90.onnx --vs resnet18.onnx --batch 16 --threads 1 --threads 2

    sift bench r18w90.onnx --vs deepsparse --peer-python ds/bin/python

    sift bench r18w90.onnx --layers
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output

if TYPE_CHECKING:
    from sift_cli.runtime.bench import BenchReport, Comparison, Measured, Spread
    from sift_cli.runtime.layers import NodeTime

#: Nodes that take a smaller share than this are one row together.
_SMALL = 0.005


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL.onnx", help="An ONNX model.")],
    vs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            help="dense: the same file in plain onnxruntime. FILE.onnx: another model. deepsparse: the same model in "
            "DeepSparse; deepsparse:FILE.onnx another one.",
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE.npy|SHAPE", help="An input, or the shape of a random one: 1x128x768."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch of random inputs.")] = 1,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Threads within an op, by default one a core; given twice, a comparison for each."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Time for the rounds of a comparison.")] = 10.0,
    layers: Annotated[bool, typer.Option("--layers", help="Where the time goes, node by node.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of random inputs.")] = 0,
    peer_python: Annotated[
        str | None, typer.Option(metavar="PYTHON", envvar="SIFT_PEER_PYTHON", help="The interpreter with DeepSparse.")
    ] = None,
) -> None:
    with _output.working(f"timing {model}"):
        report = api.bench(
            model,
            vs=vs or (),
            inputs=input or (),
            batch=batch,
            threads=threads or (None,),
            seconds=seconds,
            layers=layers,
            seed=seed,
            peer_python=peer_python,
        )
    _output.data(report.to_json()) if _output.wants_json() else _print(report)


def _print(report: BenchReport) -> None:
    machine = report.machine
    for comparison in report.comparisons:
        threads = comparison.threads or machine.cores
        title = f"batch {report.batch}, {threads} thread{'s' * (threads > 1)}, {comparison.rounds} rounds"
        columns = ["peer", "engine", "ms", "p10 … p90", "a second", "sift is × as fast", "p10 … p90", "difference"]
        _output.table(title, columns, [_row(peer) for peer in comparison.peers], left=2)
        if comparison.nodes is not None:
            _print_nodes(comparison, None if machine.peak_gflops is None else machine.peak_gflops * threads)
    isas = f"SIFT_FORCE_ISA={machine.forced_isa}" if machine.forced_isa else ", ".join(machine.isas) or "no library"
    peak = f", {machine.peak_gflops:.0f} GFLOP/s a core at the best" if machine.peak_gflops else ""
    _output.text(f"{machine.cpu}, {machine.cores} core{'s' * (machine.cores > 1)} ({isas}){peak}")


def _row(peer: Measured) -> list[str]:
    ratio = peer.ratio
    return [
        peer.name,
        peer.engine,
        f"{peer.seconds.median * 1e3:.2f}",
        _spread(peer.seconds, 1e3),
        f"{peer.per_second:.1f}",
        "" if ratio is None else f"{ratio.median:.2f}",
        "" if ratio is None else _spread(ratio, 1),
        "" if peer.difference is None else f"{peer.difference:.1e}",
    ]


def _spread(spread: Spread, unit: float) -> str:
    return f"{spread.p10 * unit:.2f} … {spread.p90 * unit:.2f}"


def _print_nodes(comparison: Comparison, peak: float | None) -> None:
    assert comparison.nodes is not None
    columns = ["node", "op", "kernel", "ms", "share", "useful GFLOP/s", "of the peak", "dense-equivalent GFLOP/s"]
    shown = [node for node in comparison.nodes if node.share >= _SMALL]
    rows = [_node_row(node, peak) for node in shown]
    small = [node for node in comparison.nodes if node.share < _SMALL]
    if small:
        took, share = sum(node.seconds for node in small), sum(node.share for node in small)
        rows.append([f"{len(small)} more", "", "", f"{took * 1e3:.3f}", f"{share:.1%}", "", "", ""])
    _output.table("", columns, rows, left=3)


def _node_row(node: NodeTime, peak: float | None) -> list[str]:
    useful, dense = node.useful_gflops, node.dense_equivalent_gflops
    return [
        node.name,
        node.op,
        node.kernel or "",
        f"{node.seconds * 1e3:.3f}",
        f"{node.share:.1%}",
        "" if useful is None else f"{useful:.1f}",
        "–" if useful is None or peak is None else f"{useful / peak:.0%}",
        "" if dense is None else f"{dense:.1f}",
    ]
