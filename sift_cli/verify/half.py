"""A file in half precision computes in float32 what its rounded weights say; and how much their rounding changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from sift_cli.core.certificate import Claim, claim
from sift_cli.core.half import Storage
from sift_cli.core.operators import DOMAIN
from sift_cli.export.half import rounded
from sift_cli.runtime import session
from sift_cli.verify.feeds import Feed
from sift_cli.verify.outputs import BOUND, Outputs, difference, outputs, showing, sparse_outputs, ways


def of_float32(claims: Iterable[Claim]) -> list[Claim]:
    """``claims`` as those of the file in float32, of which the one in half precision is a rounding."""
    return [replace(one, counter=f"{one.counter}, in float32") for one in claims]


def half_claims(exact: onnx.ModelProto, path: Path, dtype: Storage, examples: Sequence[Feed]) -> Iterator[Claim]:
    """Measure the file at ``path``.

    Args:
        exact: The same model with its weights in float32.
        path: What :func:`sift_cli.export.half.with_weights` made of it.
        dtype: In which type.
        examples: Inputs to run both on.
    """
    stored = onnx.load(path)
    before, after = _masks(exact), _masks(stored)
    if before:
        yield claim(
            "mask_cardinality", before == after,
            before=sum(kept for kept, _ in before.values()), after=sum(kept for kept, _ in after.values()),
            bound=f"{len(before)} masks identical bit for bit", counter="bitmask",
        )  # fmt: skip
    wide = rounded(exact, dtype)  # the same numbers, and no narrow type
    for counter, library in ways().items():
        got = _computed(path, library, examples)
        yield _same("same_function", got, _computed(wide.SerializeToString(), library, examples), dtype, counter)
    yield rounding_claim(difference(got, _computed(exact.SerializeToString(), library, examples)), dtype, counter)
    if names := sparse_outputs(exact):
        got, wanted = (_computed(showing(model, names), library, examples) for model in (stored, wide))
        yield _same("same_layers", got, wanted, dtype, f"{counter}, {len(names)} operators")


def _same(name: str, got: Sequence[Outputs], wanted: Sequence[Outputs], dtype: Storage, counter: str) -> Claim:
    error = difference(got, wanted)
    return claim(
        name, error <= BOUND,
        before=0.0, after=error,
        bound=f"at most {BOUND} of the largest number of each, in float32 of weights rounded to {dtype}",
        counter=counter,
    )  # fmt: skip


def rounding_claim(error: float, dtype: Storage, counter: str) -> Claim:
    """What half precision costs, which is for the user to judge: nothing is required of it but that it is a number."""
    return claim(
        "rounding", math.isfinite(error),
        before=0.0, after=error,
        bound=f"finite: what {dtype} changes, as a part of the largest number of each output", counter=counter,
    )  # fmt: skip


def _masks(model: onnx.ModelProto) -> dict[str, tuple[int, bytes]]:
    """Number of bits set, and all of them, by name of the bitmask."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = (node for node in model.graph.node if node.domain == DOMAIN)
    read = dict.fromkeys(name for node in nodes for name in node.input if name.endswith(".bitmask"))
    bits = {name: onnx.numpy_helper.to_array(tensors[name]) for name in read}
    return {name: (int(np.bitwise_count(array).sum()), array.tobytes()) for name, array in bits.items()}


def _computed(source: bytes | Path, library: bool, examples: Sequence[Feed]) -> list[Outputs]:
    return outputs(session(source, library=library), examples)
