"""What the layers of an exported graph cost, by weight name."""

from __future__ import annotations

from collections.abc import Collection

from sift_cli.core.counts import FlopReport
from sift_cli.surgery import TransformedModel
from sift_cli.verify.probe import needless


def macs_by_weight(report: FlopReport, masked: Collection[str]) -> dict[str, int]:
    """MACs by weight name, kept weights only for the ``masked`` ones; what has no name is under "".

    A weight without a mask is a weight even where its value is 0, as the columns are that lead from new channels to
    the head of a model whose function was preserved.
    """
    macs: dict[str, int] = {}
    for layer in report.layers:
        name = (layer.weight or "").removesuffix(".values").removesuffix(".bitmask")
        macs[name] = macs.get(name, 0) + (layer.sparse if name in masked else layer.dense)
    return macs


def left_out(model: TransformedModel, macs: dict[str, int]) -> dict[str, int]:
    """MACs by name of the weights that an export leaves out because no output needs them; empty where ``macs`` of the
    graph are all that the plan has."""
    if sum(macs.values()) == model.plan.macs_after:
        return {}
    parameters = dict(model.module.named_parameters(remove_duplicate=False))
    planned = {layer.weight: layer.macs_after for layer in model.plan.layers if layer.weight in parameters}
    return {name: planned[name] for name in needless(model.module, model.inputs, list(planned))}
