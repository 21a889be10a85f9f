"""Make a pruned ONNX file sparse and measure what came out: counted, its masks compared, and run beside the source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from sift_cli import __version__
from sift_cli.checkpoint import open_checkpoint
from sift_cli.core.certificate import Certificate, Claim, claim
from sift_cli.core.operators import DOMAIN
from sift_cli.errors import ModelError
from sift_cli.export import manifest
from sift_cli.export.onnx_file import fits, write
from sift_cli.export.pruned import SparseWeight, sparsified
from sift_cli.export.pruned.source import read
from sift_cli.flops import count_onnx
from sift_cli.runtime import session
from sift_cli.verify.evidence import require
from sift_cli.verify.feeds import Feed, feeds
from sift_cli.verify.onnx_export import BOUND, ROUNDINGS, ways

#: No rounding excuses a larger part: nothing would be left of the claim.
WORST = 1e-2
Outputs = Sequence[np.ndarray]


def write_pruned(
    source: Path,
    path: Path,
    *,
    least: float | None = None,
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
) -> Certificate:
    """Write the pruned model ``source`` to exactly ``path`` with sift's operators, and verify the file.

    Args:
        source: An ONNX file.
        path: The file to write.
        least: Share of zeros from which on a weight becomes sparse; None where sift decides.
        input_shape, input_arrays: What to run both on, see :func:`~sift_cli.verify.feeds.feeds`.

    Raises:
        CheckpointError: The source cannot be read.
        RuntimeUnavailable: onnxruntime does not know an operator of the source.
        ExportError: No layer becomes sparse, the source does not run, or the result does not fit into one file.
        VerificationFailed: The file does not compute what the source does.
    """
    model = read(source)
    before = session(source, library=False)
    sparse, weights = sparsified(model, source, least=least)
    examples = feeds(before, shape=input_shape, arrays=input_arrays)
    write(sparse, path)
    claims = [_masks(model, path, weights), *_macs(source, path, before, examples[0])]
    claims += [*_outputs(source, path, before, examples), *_layers(model, sparse, examples)]
    certificate = require(Certificate(tuple(claims)))
    with open(source, "rb") as file:
        about = {
            "source": source.name,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            "versions": {"sift": __version__, "onnx": onnx.__version__},
            "notes": [f"{len(weights)} weights of a pruned model are stored sparse"],
        }
    _add_metadata(sparse, {manifest.CERTIFICATE: certificate.to_json(), manifest.PROVENANCE: about})
    write(sparse, path)
    return certificate


def _add_metadata(model: onnx.ModelProto, documents: Mapping[str, Mapping[str, Any]]) -> None:
    kept = [(item.key, item.value) for item in model.metadata_props if item.key not in documents]
    onnx.helper.set_model_props(model, dict(kept) | {key: manifest.dump(item) for key, item in documents.items()})


def _masks(model: onnx.ModelProto, path: Path, weights: Sequence[SparseWeight]) -> Claim:
    """Kept weights, by the masks in the file and by the zeros of the source."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    before = [
        int(np.count_nonzero(numpy_helper.to_array(stored[weight.source]))) if weight.source in stored else weight.kept
        for weight in weights
    ]
    with open_checkpoint(path) as file:
        masks = [file.mask(weight.stored) for weight in weights]
    after = [mask.nonzero if mask is not None else 0 for mask in masks]
    return claim(
        "mask_cardinality", before == after,
        before=sum(before), after=sum(after), bound=f"the nonzeros of {len(weights)} weights", counter="bitmask",
    )  # fmt: skip


def _macs(source: Path, path: Path, run: InferenceSession, example: Feed) -> Iterator[Claim]:
    """MACs on nonzero weights, for a model whose shapes can be worked out from those of its inputs."""
    dims = {
        axis: size
        for node in run.get_inputs()
        for axis, size in zip(node.shape, example[node.name].shape, strict=True)
        if isinstance(axis, str)
    }
    try:
        before, after = count_onnx(source, dims=dims), count_onnx(path, dims=dims)
    except ModelError:
        return
    if not any("unknown shape" in uncounted.op for uncounted in before.uncounted):
        yield claim(
            "sparse_macs", before.sparse == after.sparse,
            before=before.sparse, after=after.sparse, bound=f"{before.sparse:,} MACs, as before", counter="onnx",
        )  # fmt: skip


def _outputs(source: Path, path: Path, before: InferenceSession, examples: Sequence[Feed]) -> Iterator[Claim]:
    wanted = [_run(before, None, feed) for feed in examples]
    shapes = [[list(array.shape) for array in arrays] for arrays in wanted]
    for counter, library in ways().items():
        after = session(path, library=library)
        got = [_run(after, None, feed) for feed in examples]
        found = [[list(array.shape) for array in arrays] for arrays in got]
        yield claim("io_shapes", found == shapes, before=shapes, after=found, bound=f"{shapes}", counter=counter)
        yield _same("same_function", wanted, got, lambda: _exactly(source, None, examples), counter)


def _layers(model: onnx.ModelProto, sparse: onnx.ModelProto, examples: Sequence[Feed]) -> Iterator[Claim]:
    """What each sparse operator computes: behind a softmax, say, an output shows little of it."""
    there = {name for node in model.graph.node for name in node.output}
    names = [node.output[0] for node in sparse.graph.node if node.domain == DOMAIN and node.output[0] in there]
    if not names or not fits(model):
        return
    counter, library = list(ways().items())[-1]
    source = _showing(model, names)
    wanted, got = (
        [_run(run, names, feed) for feed in examples]
        for run in (session(source, library=False), session(_showing(sparse, names), library=library))
    )
    yield _same(
        "same_layers", wanted, got, lambda: _exactly(source, names, examples), f"{counter}, {len(names)} operators"
    )


def _showing(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """``model`` with these values among its outputs."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    already = {value.name for value in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in already)
    return bytes(shown.SerializeToString())


def _exactly(source: Path | bytes, names: Sequence[str] | None, examples: Sequence[Feed]) -> list[Outputs]:
    """What the source computes node by node, without onnxruntime's optimizations: other roundings of the same sums."""
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    run = session(source, library=False, options=options)
    return [_run(run, names, feed) for feed in examples]


def _run(run: InferenceSession, names: Sequence[str] | None, feed: Feed) -> Outputs:
    """Outputs that are tensors: sequences and maps are what classifiers of other kinds than sift's layers return."""
    return [array for array in run.run(names, feed) if isinstance(array, np.ndarray)]


def _same(
    name: str,
    wanted: Sequence[Outputs],
    got: Sequence[Outputs],
    rounded: Callable[[], Sequence[Outputs]],
    counter: str,
) -> Claim:
    """That two models compute the same for the same examples.

    Args:
        name: Of the claim.
        wanted, got: Outputs of the source and of the file.
        rounded: What the source computes with other roundings, asked for if the two differ by more than a rounding.
        counter: What ran the file.
    """
    error, bound = _difference(got, wanted), BOUND
    if bound < error < np.inf:  # a deep model may turn the rounding of float32 itself into more
        bound = min(max(bound, ROUNDINGS * _difference(rounded(), wanted)), WORST)
    return claim(
        name, error <= bound,
        before=0.0, after=error, bound=f"at most {bound:.2g} of the largest number of each", counter=counter,
    )  # fmt: skip


def _difference(got: Sequence[Outputs], wanted: Sequence[Outputs]) -> float:
    """The largest difference as a part of the largest number of its output; of anything but floats the share that
    differs, since a label between two that are equally good depends on a rounding."""
    pairs = ((a, b) for one, other in zip(got, wanted, strict=True) for a, b in zip(one, other, strict=True))
    return max((_distance(a, b) for a, b in pairs), default=0.0)


def _distance(got: np.ndarray, wanted: np.ndarray) -> float:
    if got.shape != wanted.shape:
        return float(np.inf)
    if not wanted.size:
        return 0.0
    if wanted.dtype.kind != "f":
        return float(np.mean(got != wanted))
    error = float(np.abs(got.astype(np.float64) - wanted).max()) / (float(np.abs(wanted).max()) or 1.0)
    return error if np.isfinite(error) else float(np.inf)
