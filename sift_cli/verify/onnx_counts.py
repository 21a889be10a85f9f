"""What the layers of an exported graph cost, by weight name."""

from __future__ import annotations

from collections.abc import Collection

from sift_cli.core.counts import FlopReport


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
