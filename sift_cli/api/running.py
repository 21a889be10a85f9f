"""ONNX models in onnxruntime, and beside their peers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sift_cli.api._sources import to_run
from sift_cli.core.files import atomic
from sift_cli.errors import Malformed, ModelError, Unreadable

if TYPE_CHECKING:
    import numpy as np

    from sift_cli.runtime import KernelReport
    from sift_cli.runtime.bench import BenchReport, Peer
    from sift_cli.runtime.peers import OnnxRuntime


@dataclass(frozen=True)
class Run:
    """One run of an ONNX model.

    Attributes:
        outputs: Arrays by name.
        kernels: What each sparse op ran; empty without the library.
        seconds: Wall time of one run, after a first one that is not counted.
        onnxruntime: Its version.
    """

    outputs: dict[str, np.ndarray]
    kernels: tuple[KernelReport, ...]
    seconds: float
    onnxruntime: str

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "sift.run/1",
            "outputs": [
                {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
                for name, array in self.outputs.items()
            ],
            "kernels": [asdict(kernel) for kernel in self.kernels],
            "seconds": self.seconds,
            "onnxruntime": self.onnxruntime,
        }


def run(
    path: str | Path,
    *,
    inputs: Sequence[str] = (),
    output: Path | None = None,
    batch: int = 1,
    seed: int = 0,
    threads: int | None = None,
    library: bool = True,
    force: bool = False,
) -> Run:
    """Run an ONNX model once.

    Args:
        path: The model.
        inputs: ``FILE.npy``, or ``1x128x768``, the shape of a random one; with several inputs ``NAME=`` before it. What
            is not given is random.
        output: Where to write the outputs: the first one to a ``.npy``, all to a ``.npz``.
        batch, seed: Of random inputs.
        threads: Threads within an op; None for one a core.
        library: False runs the fallback functions in plain onnxruntime.
        force: Replace ``output`` if it exists.

    Raises:
        CheckpointError: The model or an input cannot be read.
        ModelError: The model is no ONNX file, or an input has another name, shape or type than it wants.
        RuntimeUnavailable: The library or onnxruntime is missing.
    """
    import time

    import onnxruntime

    from sift_cli.runtime import kernels, session
    from sift_cli.runtime.arrays import check_suffix, make_inputs, write_outputs
    from sift_cli.runtime.sessions import sentence

    if output is not None:
        check_suffix(output)
    with contextlib.nullcontext() if output is None else atomic(output, force=force) as temporary:
        opened = session(to_run(path, "run"), threads=threads, library=library)
        feed = make_inputs(inputs, opened, batch=batch, seed=seed)
        names = [node.name for node in opened.get_outputs()]
        try:
            arrays = opened.run(None, feed)
        except Exception as error:  # onnxruntime's own exceptions share no base
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise Malformed(path, "a node of its graph", sentence(error)) from None
        start = time.perf_counter()
        opened.run(None, feed)
        seconds = time.perf_counter() - start
        outputs = dict(zip(names, arrays, strict=True))
        if output is not None and temporary is not None:
            write_outputs(outputs, output.suffix, temporary)
    return Run(outputs, kernels(opened), seconds, onnxruntime.__version__)


def bench(
    model: str | Path,
    *,
    vs: Sequence[str] = (),
    inputs: Sequence[str] = (),
    batch: int = 1,
    threads: Sequence[int | None] = (None,),
    seconds: float = 10.0,
    layers: bool = False,
    seed: int = 0,
    peer_python: str | None = None,
) -> BenchReport:
    """Measure the speed of an ONNX model with sift's kernels, and of others that take turns with it.

    Args:
        model: The ONNX file.
        vs: Peers. "dense" is the same file in plain onnxruntime, "deepsparse" the same model in DeepSparse, anything
            else an ONNX file of its own, which "deepsparse:FILE.onnx" runs in DeepSparse.
        inputs: ``FILE.npy``, or ``1x128x768``, the shape of a random one; with several inputs ``NAME=`` before it. What
            is not given is random. Peers get the same arrays where they fit, and random ones elsewhere.
        batch, seed: Of random inputs.
        threads: Threads within an operator, a comparison for each; None for one a core.
        seconds: Time for the rounds of a comparison, without warming up; there are at least five rounds.
        layers: Say where the model's time goes, node by node.
        peer_python: The interpreter that has DeepSparse; None for the one that ``SIFT_PEER_PYTHON`` names.

    Raises:
        CheckpointError: A model or an input cannot be read.
        ModelError: The model is no ONNX file, or one does not run on its inputs.
        ExportError: The model has no form for DeepSparse.
        RuntimeUnavailable: sift's library, onnxruntime or DeepSparse is missing.
    """
    from sift_cli.runtime import session
    from sift_cli.runtime.arrays import make_inputs
    from sift_cli.runtime.bench import BenchReport, Comparison, compare
    from sift_cli.runtime.layers import profile
    from sift_cli.runtime.machine import this_machine
    from sift_cli.runtime.peers import OnnxRuntime, samples

    path = to_run(model, "bench")
    opened = session(path)
    feed = make_inputs(inputs, opened, batch=batch, seed=seed)
    if not inputs and samples(feed) != batch:
        raise ModelError(f"{model} takes a batch of {samples(feed)} and no other", hint="leave out --batch")
    del opened
    comparisons = []
    for count in threads:
        with contextlib.ExitStack() as stack:
            first = OnnxRuntime("sift", session(path, threads=count), feed)
            peers = [first, *(_peer(stack, name, path, first, feed, count, seed, peer_python) for name in vs)]
            measured, rounds = compare(peers, seconds=seconds)
        nodes = profile(path, feed, threads=count, seconds=seconds / 4) if layers else None
        comparisons.append(Comparison(count, rounds, measured, nodes))
    return BenchReport(str(model), samples(feed), this_machine(peak=layers), tuple(comparisons))


def _peer(
    stack: contextlib.ExitStack,
    name: str,
    model: Path,
    first: OnnxRuntime,
    feed: Mapping[str, np.ndarray],
    threads: int | None,
    seed: int,
    python: str | None,
) -> Peer:
    """What ``name`` means beside ``model``, of which ``first`` is the peer; ``stack`` cleans up after it."""
    from sift_cli.runtime import session
    from sift_cli.runtime.peers import OnnxRuntime, same_inputs, samples

    if name == "dense":
        return OnnxRuntime(name, session(model, threads=threads, library=False), feed, first.outputs)
    in_deepsparse = name == "deepsparse" or name.startswith("deepsparse:")
    file = name.removeprefix("deepsparse").removeprefix(":") if in_deepsparse else name
    if file or not in_deepsparse:
        if not Path(file).is_file():
            raise Unreadable(
                file, "no such file", hint="--vs takes dense, deepsparse, or a file: [deepsparse:]FILE.onnx"
            )
        opened = session(to_run(file, "bench"), threads=threads)
        feed = same_inputs(feed, opened, seed)
        if samples(feed) != first.samples:
            raise ModelError(f"{file} takes a batch of {samples(feed)}, and {model} one of {first.samples}")
        if not in_deepsparse:
            return OnnxRuntime(name, opened, feed)
    import onnx

    from sift_cli.export.deepsparse import for_deepsparse
    from sift_cli.runtime.remote import DeepSparse

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    rewritten = Path(folder, "model.onnx")
    onnx.save(for_deepsparse(onnx.load(file or model), {key: array.shape for key, array in feed.items()}), rewritten)
    expected = None if file else first.outputs
    peer = DeepSparse(name, rewritten, feed, threads=threads, python=python, expected=expected)
    stack.callback(peer.close)
    return peer
