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
from sift_cli.core.half import Storage
from sift_cli.errors import ModelError
from sift_cli.export import manifest
from sift_cli.export.arranging import arrange
from sift_cli.export.half import with_weights
from sift_cli.export.layer_plans import Decide, LayerPlans, by_estimate
from sift_cli.export.onnx_file import fits, write
from sift_cli.export.pruned import SparseWeight, sparsified
from sift_cli.export.pruned.source import Source, read
from sift_cli.flops import count_onnx
from sift_cli.runtime import session
from sift_cli.verify.evidence import require
from sift_cli.verify.feeds import Feed, feeds
from sift_cli.verify.half import half_claims, of_float32
from sift_cli.verify.outputs import BOUND, ROUNDINGS, Outputs, difference, outputs, showing, sparse_outputs, ways
from sift_cli.verify.tuning import Tuning

#: With fewer zeros no layer has been seen to be faster sparse.
_TRIED = 0.3
#: No rounding excuses a larger part: nothing would be left of the claim.
WORST = 1e-2


def write_pruned(
    source: Path,
    path: Path,
    *,
    least: float | None = None,
    tuning: Tuning | None = None,
    dtype: Storage = "fp32",
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
) -> Certificate:
    """Write the pruned model ``source`` to exactly ``path`` with sift's operators, and verify the file.

    Args:
        source: An ONNX file.
        path: The file to write.
        least: Share of zeros from which on a weight becomes sparse; None where sift decides.
        tuning: Decides by measuring, where there is no ``least``, and finds plans.
        dtype: What its weights are stored as. Half precision is measured on top of the float32 file.
        input_shape, input_arrays: What to run both on, see :func:`~sift_cli.verify.feeds.feeds`.

    Raises:
        CheckpointError: The source cannot be read.
        RuntimeUnavailable: onnxruntime does not know an operator of the source.
        ExportError: No layer becomes sparse, the source does not run, a weight is beyond the range of ``dtype``, or the
            result does not fit into one file.
        VerificationFailed: The file does not compute what the source does.
    """
    given = read(source)
    before = session(source, library=False)
    examples = feeds(before, shape=input_shape, arrays=input_arrays)
    dims = _dims(before, examples[0])
    sparse, weights = sparsified(given, source, least=_TRIED if least is None else least)
    if tuning is not None or least is None:
        decide = by_estimate(None, dims) if tuning is None else tuning.on(lambda _: examples[0])
        decided = _of_source(decide, sparse, weights)
        sparse, weights = sparsified(given, source, least=_TRIED if least is None else least, decided=decided)
    arrange(sparse)
    written = with_weights(sparse, dtype)
    write(sparse, path)
    claims = [_masks(given, path, weights), *_macs(source, path, dims)]
    claims += [*_outputs(source, path, before, examples), *_layers(given.model, sparse, examples)]
    if written is not sparse:
        write(written, path)
        claims = [*of_float32(claims), *half_claims(sparse, path, dtype, examples)]
    certificate = require(Certificate(tuple(claims)))
    with open(source, "rb") as file:
        about = {
            "source": source.name,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            "versions": {"sift": __version__, "onnx": onnx.__version__},
            "notes": [f"{len(weights)} weights of a pruned model are stored sparse"],
        }
    _add_metadata(written, {manifest.CERTIFICATE: certificate.to_json(), manifest.PROVENANCE: about})
    write(written, path)
    return certificate


def _of_source(decide: Decide, sparse: onnx.ModelProto, weights: Sequence[SparseWeight]) -> LayerPlans:
    """What is decided about ``sparse``, by the weights' names in its source."""
    decided = decide(sparse)
    plans = [(weight.source, decided.plans[weight.stored]) for weight in weights if weight.stored in decided.plans]
    return LayerPlans(frozenset(one.source for one in weights if one.stored in decided.dense), dict(plans))


def _add_metadata(model: onnx.ModelProto, documents: Mapping[str, Mapping[str, Any]]) -> None:
    kept = [(item.key, item.value) for item in model.metadata_props if item.key not in documents]
    onnx.helper.set_model_props(model, dict(kept) | {key: manifest.dump(item) for key, item in documents.items()})


def _masks(given: Source, path: Path, weights: Sequence[SparseWeight]) -> Claim:
    """Kept weights, by the masks in the file and by the masks or the zeros of the source."""
    sources = {weight.source for weight in weights}
    dense = [tensor for tensor in given.model.graph.initializer if tensor.name in sources]
    kept = {tensor.name: int(np.count_nonzero(numpy_helper.to_array(tensor))) for tensor in dense}
    kept |= {name: mask.nonzero for name, mask in given.masks[0].items()}
    before = [kept.get(weight.source, weight.kept) for weight in weights]
    with open_checkpoint(path) as file:
        masks = [file.mask(weight.stored) for weight in weights]
    after = [mask.nonzero if mask is not None else 0 for mask in masks]
    return claim(
        "mask_cardinality", before == after,
        before=sum(before), after=sum(after), bound=f"what is kept of {len(weights)} weights", counter="bitmask",
    )  # fmt: skip


def _dims(run: InferenceSession, example: Feed) -> dict[str, int]:
    """Sizes of the axes that the model leaves open."""
    return {
        axis: size
        for node in run.get_inputs()
        for axis, size in zip(node.shape, example[node.name].shape, strict=True)
        if isinstance(axis, str)
    }


def _macs(source: Path, path: Path, dims: Mapping[str, int]) -> Iterator[Claim]:
    """MACs on nonzero weights, for a model whose shapes can be worked out from those of its inputs."""
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
    wanted = outputs(before, examples)
    shapes = [[list(array.shape) for array in arrays] for arrays in wanted]
    for counter, library in ways().items():
        after = session(path, library=library)
        got = outputs(after, examples)
        found = [[list(array.shape) for array in arrays] for arrays in got]
        yield claim("io_shapes", found == shapes, before=shapes, after=found, bound=f"{shapes}", counter=counter)
        yield _same("same_function", wanted, got, lambda: _exactly(source, None, examples), counter)


def _layers(model: onnx.ModelProto, sparse: onnx.ModelProto, examples: Sequence[Feed]) -> Iterator[Claim]:
    there = {name for node in model.graph.node for name in node.output}
    names = [name for name in sparse_outputs(sparse) if name in there]
    if not names or not fits(model):
        return
    counter, library = list(ways().items())[-1]
    source = showing(model, names)
    wanted, got = (
        outputs(run, examples, names)
        for run in (session(source, library=False), session(showing(sparse, names), library=library))
    )
    yield _same(
        "same_layers", wanted, got, lambda: _exactly(source, names, examples), f"{counter}, {len(names)} operators"
    )


def _exactly(source: Path | bytes, names: Sequence[str] | None, examples: Sequence[Feed]) -> list[Outputs]:
    """What the source computes node by node, without onnxruntime's optimizations: other roundings of the same sums."""
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return outputs(session(source, library=False, options=options), examples, names)


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
    error, bound = difference(got, wanted), BOUND
    if bound < error < np.inf:  # a deep model may turn the rounding of float32 itself into more
        bound = min(max(bound, ROUNDINGS * difference(rounded(), wanted)), WORST)
    return claim(
        name, error <= bound,
        before=0.0, after=error, bound=f"at most {bound:.2g} of the largest number of each", counter=counter,
    )  # fmt: skip
