"""Counting a torch module, and checking one counter against the other."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

from torch import nn

from sift_cli.core.counts import FlopReport
from sift_cli.errors import VerificationFailed
from sift_cli.flops.uses import Weights, report
from sift_cli.models.calling import Inputs

TorchCounter = Literal["fvcore", "dispatch"]


def count_module(
    module: nn.Module,
    inputs: Inputs,
    *,
    counter: TorchCounter = "fvcore",
    nonzero: Mapping[str, int] | None = None,
) -> FlopReport:
    """MACs of one forward pass of ``module`` on ``inputs``, by layer, in evaluation mode.

    The module is not run and not changed; a copy without its weights is, so tensors on the meta device will do.

    Args:
        module: Any module that takes tensors.
        inputs: Inputs by position or keyword; MACs are those of the whole batch.
        counter: "fvcore" prices the graph of ``torch.jit.trace``; "dispatch" the operators that reach torch's
            dispatcher, which sees through custom autograd functions and needs no arithmetic.
        nonzero: Kept weights by state_dict name; other weights count as dense. None counts the nonzero elements of the
            tensors, or all of them where they have no data.

    Raises:
        ModelError: The module cannot be copied, or ``nonzero`` does not fit it.
        UnsupportedOp: The counter cannot follow the module.
    """
    weights = Weights(module, nonzero)
    if counter == "fvcore":
        with warnings.catch_warnings():
            # Importing fvcore compiles functions with torch.jit.script, which torch 2.13 deprecates aloud.
            warnings.simplefilter("ignore", DeprecationWarning)
            from sift_cli.flops import fvcore_counter

        uses, uncounted = fvcore_counter.count(module, inputs)
    else:
        from sift_cli.flops import dispatch_counter

        uses, uncounted = dispatch_counter.count(module, inputs)
    return report(uses, uncounted, weights, counter)


def cross_check(
    module: nn.Module, inputs: Inputs, *, nonzero: Mapping[str, int] | None = None
) -> tuple[FlopReport, FlopReport]:
    """Count with both counters and insist on the same integers, in total and in every layer.

    Returns:
        The reports of fvcore and of the dispatcher.

    Raises:
        VerificationFailed: They differ; the message names the layers.
        ModelError, UnsupportedOp: As for :func:`count_module`.
    """
    traced = count_module(module, inputs, counter="fvcore", nonzero=nonzero)
    dispatched = count_module(module, inputs, counter="dispatch", nonzero=nonzero)
    left, right = _by_layer(traced), _by_layer(dispatched)
    differ = [name for name in dict.fromkeys((*left, *right)) if left[name] != right[name]]
    if differ:
        shown = "; ".join(f"{name or '(top)'}: {left[name]} and {right[name]}" for name in differ[:4])
        more = f" and {len(differ) - 4} more layers" if len(differ) > 4 else ""
        raise VerificationFailed(
            f"fvcore and torch's dispatcher disagree on (dense, sparse) MACs of {shown}{more}",
            hint="an operator that only one of them sees through; compare the uncounted operators of both",
        )
    return traced, dispatched


def _by_layer(report: FlopReport) -> defaultdict[str, tuple[int, int]]:
    """(dense, sparse) MACs by layer, whatever the operators were called: attention is one operator to one counter."""
    macs: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for layer in report.layers:
        dense, sparse = macs[layer.name]
        macs[layer.name] = (dense + layer.dense, sparse + layer.sparse)
    return macs
