"""A file that holds a model in another form: nothing about the model may have changed, not by one bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from sift_cli.core.certificate import Certificate, claim
from sift_cli.core.half import Storage
from sift_cli.core.masks import Mask
from sift_cli.models.calling import call, primary
from sift_cli.surgery import TransformedModel
from sift_cli.verify.evidence import require
from sift_cli.verify.half import rounding_claim
from sift_cli.verify.outputs import difference


def certify_rewritten(model: TransformedModel, read: nn.Module, masks: Mapping[str, Mask]) -> Certificate:
    """Measure that the module and the masks, as read back, are those of ``model``, and compute the same bits.

    Raises:
        VerificationFailed: Something changed.
    """
    expected, state = model.module.state_dict(), read.state_dict()
    same = sum(1 for name in expected if name in state and _bits_equal(expected[name], state[name]))
    kept = sum(1 for name in model.masks if name in masks and np.array_equal(model.masks[name].bits, masks[name].bits))
    whole = len(expected) + len(model.masks)
    roundtrip = claim(
        "roundtrip",
        same + kept == whole == len(state) + len(masks),
        before=whole,
        after=same + kept,
        bound=f"all {whole} tensors and masks identical bit for bit",
        counter="bytes",
    )
    certificate = Certificate((roundtrip,))
    if roundtrip.held:
        with torch.no_grad():
            before, after = (primary(call(module, model.inputs)) for module in (model.module, read.eval()))
        certificate += [
            claim(
                "same_function",
                len(before) == len(after) and all(map(_bits_equal, before, after)),
                before=0.0,
                after=max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True)),
                bound="0: outputs identical bit for bit",
                counter="torch",
            )
        ]
    return require(certificate)


def certify_half(
    model: TransformedModel, rounded: TransformedModel, read: nn.Module, masks: Mapping[str, Mask], dtype: Storage
) -> Certificate:
    """Measure that what was read back is ``rounded``, and what rounding changed of ``model``.

    Raises:
        VerificationFailed: The file holds anything else.
    """
    exact = certify_rewritten(rounded, read, masks)
    with torch.no_grad():
        before, after = (primary(call(module, model.inputs)) for module in (model.module, read))
    error = difference([[one.numpy() for one in after]], [[one.numpy() for one in before]])
    claims = (replace(one, bound=f"{one.bound}, of weights rounded to {dtype}") for one in exact.claims)
    return require(Certificate((*claims, rounding_claim(error, dtype, "torch"))))


def _bits_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
