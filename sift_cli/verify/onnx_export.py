"""Write an ONNX file and measure it: counted from the file, and run by onnxruntime with and without sift's library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession
from torch import nn

from sift_cli.checkpoint import Checkpoint, open_checkpoint
from sift_cli.core.certificate import Certificate, Claim, claim
from sift_cli.core.half import Storage
from sift_cli.core.masks import Mask
from sift_cli.errors import ExportError, VerificationFailed
from sift_cli.export.half import with_weights
from sift_cli.export.layer_plans import Decide, LayerPlans
from sift_cli.export.manifest import Manifest
from sift_cli.export.onnx import estimating, is_tokens, lengths, to_onnx
from sift_cli.export.onnx_file import write
from sift_cli.flops import count_module, count_onnx
from sift_cli.models import LoadedModel
from sift_cli.models.calling import Inputs, call, map_inputs, primary, random_like, specs_of, tensors_of
from sift_cli.models.precise import InDouble
from sift_cli.runtime import session
from sift_cli.surgery import TransformedModel
from sift_cli.verify.evidence import macs_claim, require
from sift_cli.verify.feeds import Feed
from sift_cli.verify.functions import doubled
from sift_cli.verify.half import half_claims, of_float32
from sift_cli.verify.onnx_counts import exported_macs
from sift_cli.verify.outputs import BOUND, ROUNDINGS, ways
from sift_cli.verify.probe import hidden_layers, lively, needless
from sift_cli.verify.tuning import Tuning
from sift_cli.widths import output_axis

BATCHES = (1, 5)


def write_onnx(
    model: LoadedModel | TransformedModel,
    path: Path,
    *,
    opset: int,
    dtype: Storage = "fp32",
    least: float | None = None,
    tuning: Tuning | None = None,
) -> Certificate:
    """Export ``model`` to exactly ``path`` and verify the file.

    Args:
        model: The model.
        path: The file to write.
        opset: Version of the standard operators.
        dtype: What the weights are stored as. Half precision is measured on top of the float32 file.
        least: Share of zeros from which on a masked layer becomes a sparse operator; None where sift decides.
        tuning: Decides by measuring, in the place of ``least``.

    Raises:
        ExportError: The model cannot be exported, or a weight is beyond the range of ``dtype``.
        VerificationFailed: The file does not count or compute what the model does.
    """
    masks = model.masks if isinstance(model, TransformedModel) else {}
    measuring = tuning.on(lambda graph: _example(graph, model.inputs)) if tuning else None
    decide = _once(measuring or estimating(model.inputs, least))
    exact = to_onnx(model.module, model.inputs, masks, {}, opset=opset, any_length=True, decide=decide)
    proto = with_weights(exact, dtype)
    write(exact, path)
    claims = list(_measure(model, path, opset, decide))
    if proto is not exact:
        write(proto, path)
        examples = [_example(exact, random_like(model.inputs, size, seed=size)) for size in BATCHES]
        claims = [*of_float32(claims), *half_claims(exact, path, dtype, examples)]
    certificate = require(Certificate(tuple(claims)))
    if isinstance(model, TransformedModel):
        about = Manifest(model.plan, certificate, model.provenance)
        measured = onnx.load(path).graph.SerializeToString(deterministic=True)
        onnx.helper.set_model_props(proto, about.dumps())
        write(proto, path)
        if onnx.load(path).graph.SerializeToString(deterministic=True) != measured:
            raise VerificationFailed("the graph changed when its certificate was written into the file", certificate)
    return certificate


def _once(decide: Decide) -> Decide:
    made: list[LayerPlans] = []

    def first(model: onnx.ModelProto) -> LayerPlans:
        if not made:
            made.append(decide(model))
        return made[0]

    return first


def _measure(model: LoadedModel | TransformedModel, path: Path, opset: int, decide: Decide) -> Iterator[Claim]:
    try:
        onnx.checker.check_model(path, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exporter made an invalid model: {str(error).splitlines()[0]}") from None
    if isinstance(model, TransformedModel) and model.masks.keys() == model.plan.masked.keys():
        # What the plan says it says of the input it was made at; at another one there is no budget to hold to.
        if [spec.shape for spec in specs_of(model.inputs)] == [spec.shape for spec in model.plan.inputs]:
            yield _macs(model, path)
        yield _cardinality(model, path)
    yield from _outputs(model, path, opset, decide)


def _macs(model: TransformedModel, path: Path) -> Claim:
    in_torch = count_module(model.module, model.inputs, counter="dispatch", nonzero=model.nonzero).sparse
    in_graph = sum(exported_macs(count_onnx(path, dims=_lengths(model, path)), model).values())
    return claim(
        macs_claim(model.plan),
        in_graph == model.plan.macs_after == in_torch,
        before=model.plan.macs_before,
        after=in_graph,
        bound=f"{model.plan.macs_after:,} MACs, as planned and as torch counts",
        counter="onnx",
    )


def _lengths(model: TransformedModel, path: Path) -> dict[str, int]:
    """Sizes of the length axes that the file left open."""
    graph = onnx.load(path, load_external_data=False).graph
    open_axes = {dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim}
    return {name: size for name, size in lengths(model.inputs).items() if name in open_axes}


def _cardinality(model: TransformedModel, path: Path) -> Claim:
    with open_checkpoint(path) as file:
        there = [name for name in model.masks if name in file.tensors]
        same = [name for name in there if _same_mask(file, name, model.masks[name], model.module)]
        if len(there) < len(model.masks):
            same += needless(model.module, model.inputs, [name for name in model.masks if name not in there])
    return claim(
        "mask_cardinality",
        len(same) == len(model.masks),
        before=model.masks.nonzero,
        after=sum(model.masks[name].nonzero for name in same),
        bound=f"{len(model.masks)} masks identical bit for bit",
        counter="onnx",
    )


def _same_mask(file: Checkpoint, name: str, mask: Mask, module: nn.Module) -> bool:
    """Whether the file keeps the weights that ``mask`` keeps; those of a layer without an operator are stored dense."""
    stored, kept = file.mask(name), mask.to_bool()
    if stored is None:
        return not np.any(file.read(name)[~kept])
    inputs_first = output_axis(module.get_submodule(name.rpartition(".")[0])) == 1
    return np.array_equal(stored.to_bool(), kept.T if inputs_first else kept)


def _outputs(model: LoadedModel | TransformedModel, path: Path, opset: int, decide: Decide) -> Iterator[Claim]:
    for counter, library in ways().items():
        yield from _compare(model.module, model.inputs, session(path, library=library), BATCHES, counter)
    masks = model.masks if isinstance(model, TransformedModel) else {}
    if masks and hidden_layers(model.module, model.inputs, list(masks)):
        # The same export of the same masks, from a copy whose every layer reaches the output. One way to run it is
        # enough: the other decodes the same bits.
        visible = lively(model.module, model.inputs)
        graph = to_onnx(visible, model.inputs, masks, {}, opset=opset, decide=decide).SerializeToString()
        counter, library = list(ways().items())[-1]
        run = session(graph, library=library)
        yield from _compare(visible, model.inputs, run, (2,), f"{counter}, norms at random")


def _compare(
    module: nn.Module,
    examples: Inputs,
    run: InferenceSession,
    sizes: Sequence[int],
    counter: str,
) -> Iterator[Claim]:
    """Shapes and values of what onnxruntime computes for batches of ``sizes``, against ``module``; where the length of
    tokens is open, of every other batch at half the length."""
    names = [item.name for item in run.get_inputs()]
    open_axes = {axis for item in run.get_inputs() for axis in item.shape}
    halved = [size for name, size in lengths(examples).items() if name in open_axes]
    before, after, errors = [], [], []
    for number, size in enumerate(sizes):
        inputs = random_like(examples, size, seed=size)
        if number % 2:
            inputs = map_inputs(lambda t: t[:, : t.shape[1] // 2 + 1] if is_tokens(t, halved) else t, inputs)
        with torch.no_grad():
            wanted = [tensor.numpy() for tensor in primary(call(module, inputs))]
        got = run.run(None, _feed(names, inputs))
        before += (shapes := [list(array.shape) for array in wanted])
        after += [list(array.shape) for array in got]
        if after[-len(shapes) :] == shapes:
            scale = max(float(np.abs(array).max()) for array in wanted) or 1.0  # 0, as a zero head has it
            errors.append(max(float(np.abs(a - b).max()) for a, b in zip(got, wanted, strict=True)) / scale)
    yield claim("io_shapes", before == after, before=before, after=after, bound=f"{before}", counter=counter)
    if len(errors) == len(sizes):
        # A deep model with random norms can turn the rounding of float32 itself into more (ConvMixer of 32 layers).
        bound = BOUND if max(errors) <= BOUND else max(BOUND, ROUNDINGS * _rounding(module, examples))
        yield claim(
            "same_function",
            max(errors) <= bound,
            before=0.0,
            after=max(errors),
            bound=f"at most {bound:.2g} of the largest output, batches of {' and '.join(map(str, sizes))}",
            counter=counter,
        )


def _example(graph: onnx.ModelProto, inputs: Inputs) -> Feed:
    return _feed([value.name for value in graph.graph.input], inputs)


def _feed(names: Sequence[str], inputs: Inputs) -> Feed:
    return {name: tensor.numpy() for name, tensor in zip(names, tensors_of(inputs), strict=True)}


def _rounding(module: nn.Module, examples: Inputs) -> float:
    """What float32 costs torch itself: the largest difference to float64, as a part of the largest output."""
    inputs = random_like(examples, 2, seed=2)
    with torch.no_grad(), InDouble():
        exact = primary(call(doubled(module), map_inputs(lambda t: t.double() if t.is_floating_point() else t, inputs)))
    with torch.no_grad():
        single = primary(call(module, inputs))
    scale = max(float(tensor.abs().max()) for tensor in exact) or 1.0
    return max(float((a - b).abs().max()) for a, b in zip(single, exact, strict=True)) / scale
