"""The transformed model takes the inputs and gives the outputs of the original, in torch and as an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from sift_cli.core.certificate import Claim, claim
from sift_cli.models.calling import Inputs, call, primary
from sift_cli.verify.evidence import Evidence


def measure(evidence: Evidence) -> Iterator[Claim]:
    original, artifact = evidence.original, evidence.artifact
    before = _shapes(original.module, original.inputs)
    after = _shapes(artifact.module, original.inputs)
    yield claim("io_shapes", after == before, before=before, after=after, bound=f"{before}", counter="torch")
    graph = evidence.onnx.graph
    declared = [[d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim] for value in graph.output]
    wanted = [["batch", *shape[1:]] for shape in before]
    yield claim("io_shapes", declared == wanted, before=wanted, after=declared, bound=f"{wanted}", counter="onnx")


def _shapes(module: nn.Module, inputs: Inputs) -> list[list[int]]:
    with torch.no_grad():
        return [list(tensor.shape) for tensor in primary(call(module, inputs))]
