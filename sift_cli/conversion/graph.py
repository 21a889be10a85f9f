"""An ONNX model whose weights are stored in another form, and nothing else is changed; see
:mod:`~sift_cli.export.graph_weights` for the forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import GraphOptimizationLevel, SessionOptions

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.readers.onnx import of_graph
from sift_cli.core.half import HALVES, Storage, stored_as
from sift_cli.core.operators import DENSE_WEIGHT, DOMAIN
from sift_cli.core.tensors import DTYPE_NAMES, DTYPES
from sift_cli.errors import ExportError, SiftError, VerificationFailed
from sift_cli.export import fallback
from sift_cli.export.dense import standard
from sift_cli.export.graph_weights import Form, graphs, lift_constants, names, store
from sift_cli.export.half import with_weights
from sift_cli.export.onnx_file import fits
from sift_cli.export.pruned.source import OLDEST_IR, OLDEST_OPSET, opset_of, whole
from sift_cli.runtime import session
from sift_cli.runtime.sessions import sentence
from sift_cli.verify.feeds import Feed, feeds
from sift_cli.verify.outputs import Outputs, outputs

#: The first IR version with sparse initializers.
_SPARSE_IR = 6
#: More than any share of zeros.
_NONE = 2.0


def rewritten(path: Path, to: Form, *, dtype: Storage | None = None, least: float = 0.0) -> onnx.ModelProto:
    """The model at ``path`` with all data inside and its weights stored in the form ``to``.

    Args:
        path: An ONNX file.
        to: "sift" for masks, and values that a function of the model decodes; "coo" for sparse initializers; "dense".
        dtype: "fp16" or "bf16" rounds weights as ``sift export --dtype`` does; None leaves them.
        least: Share of zeros from which on a weight without a mask becomes sparse, where that makes it smaller.

    Raises:
        CheckpointError: The file cannot be read.
        ExportError: The model cannot be written in that form or type.
    """
    model = whole(path)
    if to != "sift" and any(node.domain == DOMAIN and node.op_type != DENSE_WEIGHT for node in model.graph.node):
        model = standard(model)
    if dtype is not None:
        model = _rounded(model, path, dtype)
    _store(model, path, to, least)
    _declare(model, path, to)
    return model


def check_same(source: Path, written: Path, to: Form, *, dtype: Storage | None = None) -> str | None:
    """Measure that :func:`rewritten` has changed nothing: every tensor and mask is read from ``written`` as from
    ``source``, bit for bit, and stock onnxruntime computes the same bits of random inputs.

    Args:
        source, written: The two files.
        to, dtype: What the second one was written as. "dense" loses masks; of a half type the tensors stored in it are
            compared with the rounded ones.

    Returns:
        Why outputs were not compared, or None where they were.

    Raises:
        VerificationFailed: Something differs, or ``written`` is no valid model where ``source`` is one.
    """
    _check_tensors(source, written, masks=to != "dense", dtype=dtype)
    _check_valid(source, written)
    reference: Path | bytes = source
    if dtype in HALVES:
        rounded = rewritten(source, "dense")
        if not fits(rounded):
            return "dense it has more than 2 GB"
        _round(rounded, written, dtype)
        reference = rounded.SerializeToString()
    try:
        run = session(reference, library=False)
        examples = feeds(run)
    except SiftError as error:
        return error.message
    _check_outputs(reference, written, examples)
    return None


def _store(model: onnx.ModelProto, path: Path, to: Form, least: float) -> None:
    taken = names(model)
    for graph in graphs(model):
        lift_constants(graph)
    if to == "dense":
        specs = (spec for graph in graphs(model) for spec in of_graph(path, graph).tensors.values())
        size = sum(spec.dense_bytes for spec in specs)
        if size >= 2**31:
            raise ExportError(f"the model takes {size:,} bytes dense, and one ONNX file holds 2 GB at the most")
    for graph in graphs(model):
        store(path, graph, to, taken, least=least)


def _rounded(model: onnx.ModelProto, path: Path, dtype: Storage) -> onnx.ModelProto:
    """``model`` with its weights in ``dtype``, each mask as a function, since onnx_ir has no sparse initializers."""
    _store(model, path, "sift", _NONE)
    specs = [spec for graph in graphs(model) for spec in of_graph(path, graph).tensors.values()]
    half = next((spec for spec in specs if DTYPES[spec.dtype] in HALVES.values()), None)
    if dtype == "fp32" and half is not None:
        raise ExportError(f"{half.name!r} of {path} is {half.dtype} already, and the graph of a model is not widened")
    return with_weights(model, dtype)


def _declare(model: onnx.ModelProto, path: Path, to: Form) -> None:
    """Let the model say what it has now: functions, domains, and the IR version that they need."""
    bodies = [graph.node for graph in graphs(model)]
    bodies += [function.node for function in model.functions if function.domain != DOMAIN]
    ours = [node for nodes in bodies for node in nodes if node.domain == DOMAIN]
    if ours and to != "sift":
        (op, name), form = (ours[0].op_type, ours[0].name), "dense" if to == "dense" else "as a sparse initializer"
        raise ExportError(f"{op} {name!r} of {path} reads a weight that cannot be stored {form}")
    if any(graph.sparse_initializer for graph in graphs(model)):
        model.ir_version = max(model.ir_version, _SPARSE_IR)
    if not ours:
        for parts in (model.functions, model.opset_import):
            for at in reversed(range(len(parts))):
                if parts[at].domain == DOMAIN:
                    del parts[at]
        return
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"{path} has opset {opset}, and the function that decodes weights needs {OLDEST_OPSET}",
            hint=f"export it again with opset {OLDEST_OPSET} or newer, or use sparse initializers: --to coo",
        )
    model.ir_version = max(model.ir_version, OLDEST_IR)
    there = {function.name for function in model.functions if function.domain == DOMAIN}
    if any(node.op_type == DENSE_WEIGHT for node in ours) and DENSE_WEIGHT not in there:
        model.functions.extend(fallback.functions([DENSE_WEIGHT], opset))
    if not any(item.domain == DOMAIN for item in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))


def _views(path: Path) -> Iterator[Checkpoint]:
    """What sift reads of each graph of a model."""
    for graph in graphs(whole(path)):
        lift_constants(graph)
        yield of_graph(path, graph)


def _check_tensors(source: Path, written: Path, *, masks: bool, dtype: Storage | None) -> None:
    for before, after in zip(_views(source), _views(written), strict=True):
        if before.tensors.keys() != after.tensors.keys():
            some = sorted(before.tensors.keys() ^ after.tensors.keys())
            raise VerificationFailed(f"{some[0]!r} is a tensor in only one of {source} and the file written from it")
        for name in before.tensors:
            array, mask, got, kept = before.read(name), before.mask(name), after.read(name), after.mask(name)
            if dtype in HALVES and got.dtype == HALVES[dtype] and array.dtype == np.float32:
                array = stored_as(name, array, dtype)
            if (array.dtype, array.shape, array.tobytes()) != (got.dtype, got.shape, got.tobytes()):
                raise VerificationFailed(f"{name!r} of {source} is not what is read back")
            if masks and mask is not None and (kept is None or kept.bits.tobytes() != mask.bits.tobytes()):
                raise VerificationFailed(f"the mask of {name!r} of {source} is not what is read back")


def _check_valid(source: Path, written: Path) -> None:
    from onnx.checker import ValidationError, check_model

    try:
        check_model(written)
    except ValidationError as error:
        try:
            check_model(source)
        except ValidationError:
            return  # a model that onnxruntime runs may have what the checker refuses
        raise VerificationFailed(f"onnx refuses what was written: {str(error).strip().splitlines()[0]}") from None


def _round(model: onnx.ModelProto, like: Path, dtype: Storage) -> None:
    """Round the weights of the main graph, in float32, that ``like`` has in ``dtype``."""
    half = DTYPE_NAMES[HALVES[dtype]]
    stored = {name: spec.dtype for name, spec in next(_views(like)).tensors.items()}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and stored[tensor.name] == half:
            array = stored_as(tensor.name, onnx.numpy_helper.to_array(tensor), dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))


def _check_outputs(reference: Path | bytes, written: Path, examples: Sequence[Feed]) -> None:
    """Compare outputs; where onnxruntime's optimizations add in another order, without them."""
    for level in (GraphOptimizationLevel.ORT_ENABLE_ALL, GraphOptimizationLevel.ORT_DISABLE_ALL):
        try:
            wanted, got = (_outputs(model, examples, level) for model in (reference, written))
        except Exception as error:  # onnxruntime's own exceptions share no base
            raise VerificationFailed(f"onnxruntime does not run what was written: {sentence(error)}") from None
        if wanted == got:
            return
    raise VerificationFailed("onnxruntime computes something else with the file that was written")


def _outputs(model: Path | bytes, examples: Sequence[Feed], level: GraphOptimizationLevel) -> list[list[bytes]]:
    options = SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    found: list[Outputs] = outputs(session(model, library=False, options=options), examples)
    return [[array.tobytes() for array in arrays] for arrays in found]
