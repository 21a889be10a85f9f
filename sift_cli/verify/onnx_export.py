"""Write an ONNX file and measure it: counted from the file, and run by onnxruntime with and without sift's library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from sift_cli.checkpoint import Checkpoint, open_checkpoint
from sift_cli.core.certificate import Certificate, Claim, claim
from sift_cli.core.masks import Mask
from sift_cli.errors import ExportError, RuntimeUnavailable, VerificationFailed
from sift_cli.export.manifest import Manifest
from sift_cli.export.onnx import to_onnx
from sift_cli.flops import count_module, count_onnx
from sift_cli.models import LoadedModel
from sift_cli.runtime import library_path, session
from sift_cli.surgery import TransformedModel
from sift_cli.verify.onnx_counts import macs_by_weight
from sift_cli.verify.probe import hidden_layers, lively

#: Largest difference between torch and onnxruntime in float32, as a part of the largest output.
BOUND = 1e-4
BATCHES = (1, 5)


def write_onnx(model: LoadedModel | TransformedModel, path: Path, *, opset: int) -> Certificate:
    """Export ``model`` to exactly ``path`` and verify the file.

    Raises:
        ExportError: The model cannot be exported.
        VerificationFailed: The file does not count or compute what the model does.
    """
    masks = model.masks if isinstance(model, TransformedModel) else {}
    proto = to_onnx(model.module, model.inputs, masks, {}, opset=opset)
    _write(proto, path)
    certificate = Certificate(tuple(_measure(model, path, opset)))
    if not certificate.held:
        first = certificate.broken[0]
        raise VerificationFailed(
            f"the claim {first.name} does not hold by {first.counter}: {first.after}, but it has to be {first.bound}",
            certificate,
        )
    if isinstance(model, TransformedModel):
        about = Manifest(model.plan, certificate, model.provenance)
        measured = onnx.load(path).graph.SerializeToString(deterministic=True)
        onnx.helper.set_model_props(proto, about.dumps())
        _write(proto, path)
        if onnx.load(path).graph.SerializeToString(deterministic=True) != measured:
            raise VerificationFailed("the graph changed when its certificate was written into the file", certificate)
    return certificate


def _write(proto: onnx.ModelProto, path: Path) -> None:
    if proto.ByteSize() >= 2**31:
        raise ExportError(f"the model takes {proto.ByteSize():,} bytes, and one ONNX file holds 2 GB at the most")
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _measure(model: LoadedModel | TransformedModel, path: Path, opset: int) -> Iterator[Claim]:
    try:
        onnx.checker.check_model(path, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exporter made an invalid model: {str(error).splitlines()[0]}") from None
    if isinstance(model, TransformedModel):
        expected = count_module(model.module, model.inputs, counter="dispatch", nonzero=model.nonzero).sparse
        counted = sum(macs_by_weight(count_onnx(path), model.masks).values())
        planned = model.plan.macs_after if model.masks else expected  # a densified model has left its plan behind
        yield claim(
            "iso_flop", counted == planned == expected, before=model.plan.macs_before, after=counted,
            bound=f"{planned:,} MACs, as planned and as torch counts", counter="onnx",
        )  # fmt: skip
        yield _cardinality(model, path)
    yield from _outputs(model, path, opset)


def _cardinality(model: TransformedModel, path: Path) -> Claim:
    with open_checkpoint(path) as file:
        same = [name for name, mask in model.masks.items() if name in file.tensors and _same_mask(file, name, mask)]
    return claim(
        "mask_cardinality",
        len(same) == len(model.masks),
        before=model.masks.nonzero,
        after=sum(model.masks[name].nonzero for name in same),
        bound=f"{len(model.masks)} masks identical bit for bit",
        counter="onnx",
    )


def _same_mask(file: Checkpoint, name: str, mask: Mask) -> bool:
    """Whether the file keeps the weights that ``mask`` keeps; those of a layer without an operator are stored dense."""
    stored = file.mask(name)
    if stored is not None:
        return np.array_equal(stored.bits, mask.bits)
    return not np.any(file.read(name)[~mask.to_bool()])


def _outputs(model: LoadedModel | TransformedModel, path: Path, opset: int) -> Iterator[Claim]:
    yield from _compare(model.module, model.inputs, path, "")
    masks = model.masks if isinstance(model, TransformedModel) else {}
    if masks and hidden_layers(model.module, model.inputs, list(masks)):
        # The same export of the same masks, from a copy whose every layer reaches the output.
        visible = lively(model.module, model.inputs)
        proto = to_onnx(visible, model.inputs, masks, {}, opset=opset)
        yield from _compare(visible, model.inputs, proto.SerializeToString(), ", norms at random")


def _compare(module: nn.Module, examples: tuple[torch.Tensor, ...], graph: Path | bytes, how: str) -> Iterator[Claim]:
    """Shapes and values of what onnxruntime computes from ``graph``, with and without sift, against ``module``."""
    random = torch.Generator().manual_seed(1)
    batches = [tuple(torch.randn(size, *tensor.shape[1:], generator=random) for tensor in examples) for size in BATCHES]
    with torch.no_grad():
        expected = [module(*inputs).numpy() for inputs in batches]
    sessions = {"onnxruntime without sift": False}
    try:
        library_path()
        sessions["onnxruntime with sift"] = True
    except RuntimeUnavailable:
        pass  # a file for another machine; nothing is claimed then
    for counter, library in sessions.items():
        run = session(graph, library=library)
        names = [item.name for item in run.get_inputs()]
        got = [
            run.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})[0]
            for inputs in batches
        ]
        before, after = [list(w.shape) for w in expected], [list(g.shape) for g in got]
        yield claim("io_shapes", before == after, before=before, after=after, bound=f"{before}", counter=counter + how)
        if before == after:
            error = max(float(np.abs(g - w).max() / np.abs(w).max()) for g, w in zip(got, expected, strict=True))
            yield claim(
                "same_function",
                error <= BOUND,
                before=0.0,
                after=error,
                bound=f"at most {BOUND} of the largest output, batches of {' and '.join(map(str, BATCHES))}",
                counter=counter + how,
            )
