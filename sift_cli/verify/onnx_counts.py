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


def exported_macs(report: FlopReport, model: TransformedModel) -> dict[str, int]:
    """MACs by weight name of the graph that ``model`` was exported to, and of the layers that the graph leaves out
    because no output needs them.

    A masked weight without a sparse operator lies dense in the file, where one that is kept and happens to be 0 looks
    like those that are not kept.
    """
    macs = macs_by_weight(report, model.masks)
    parameters = dict(model.module.named_parameters(remove_duplicate=False))
    for layer in report.layers:
        name = layer.weight
        if name is not None and name in model.masks:
            values, mask = parameters[name].detach().numpy(), model.masks[name]
            each = layer.dense // values.size
            if (missing := each * mask.nonzero - layer.sparse) > 0:
                macs[name] += min(each * int((values[mask.to_bool()] == 0).sum()), missing)
    if sum(macs.values()) == model.plan.macs_after:
        return macs
    planned = {layer.weight: layer.macs_after for layer in model.plan.layers if layer.weight in parameters}
    return macs | {name: planned[name] for name in needless(model.module, model.inputs, list(planned))}
