"""Each budget of a file: what is measured for it, and when it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from sift_cli.budgets.budget import FIGURES, Budget
from sift_cli.budgets.measure import Count, Figures
from sift_cli.budgets.report import Row
from sift_cli.core.counts import FlopReport
from sift_cli.errors import SiftError

_UNITS = {"size": "bytes", "macs": "MACs", "params": "parameters", "nonzero": "weights"}


def rows(figures: Figures, budget: Budget, count: Count) -> Iterator[Row]:
    """A row for each limit of ``budget``; one that cannot be measured says why, and the others go on."""
    measures = {
        "max_size": lambda: _at_most("max-size", figures.size, budget.max_size, "bytes"),
        "max_flops": lambda: _at_most("max-flops", 2 * figures.macs, budget.max_flops, "FLOPs"),
        "max_macs": lambda: _at_most("max-macs", figures.macs, budget.max_macs, "MACs"),
        "max_params": lambda: _at_most("max-params", figures.params, budget.max_params, "parameters"),
        "min_sparsity": lambda: _sparsity(figures, budget.min_sparsity or Fraction(0)),
        "iso_flop_of": lambda: _iso_flop(figures, str(budget.iso_flop_of), budget, count),
        "same_output_as": lambda: _same_output(figures, str(budget.same_output_as), budget),
    }
    for name, measure in measures.items():
        if getattr(budget, name) is None:
            continue
        try:
            yield measure()
        except SiftError as error:
            yield unmeasured(name.replace("_", "-"), error)


def against(figures: Figures, saved: Mapping[str, int], tolerance: Mapping[str, Fraction]) -> Iterator[Row]:
    """A row for each figure that a baseline has of a file."""
    for figure in (name for name in FIGURES if name in saved):
        budget = f"baseline {figure}"
        try:
            most = int(saved[figure] * (1 + tolerance.get(figure, 0)))
            yield _at_most(budget, getattr(figures, figure), most, _UNITS[figure])
        except SiftError as error:
            yield unmeasured(budget, error)


def unmeasured(budget: str, error: SiftError) -> Row:
    return Row(budget, "error", why=error.message + (f" ({error.hint})" if error.hint else ""))


def _at_most(budget: str, measured: int, allowed: int | None, unit: str) -> Row:
    held = allowed is not None and measured <= allowed
    return Row(budget, "held" if held else "broken", measured, allowed, unit)


def _sparsity(figures: Figures, least: Fraction) -> Row:
    weights, kept = figures.weights
    if not weights:
        return Row("min-sparsity", "error", why=f"{figures.path} has no weights: no floating-point tensor of two axes")
    held = kept <= weights * (1 - least)  # of integers: no rounding tips it
    why = f"{kept:,} of {weights:,} weights are kept"
    return Row("min-sparsity", "held" if held else "broken", 1 - kept / weights, float(least), "share", why)


def _iso_flop(figures: Figures, base: str, budget: Budget, count: Count) -> Row:
    """Equal MACs, or what a certificate in the file says was left of those of the base: see docs/check.md."""
    reference = count(base, budget)
    if _certified(figures, reference):
        return Row("iso-flop-of", "held", figures.macs, reference.dense, "MACs", "as its certificate says")
    if figures.macs == reference.sparse:
        return Row("iso-flop-of", "held", figures.macs, reference.sparse, "MACs")
    why = f"{base} costs another number, and no certificate in the file accounts for the difference"
    if budget.input is None:
        why += "; each was counted at its own input, and --input sets that of a checkpoint"
    return Row("iso-flop-of", "broken", figures.macs, reference.sparse, "MACs", why)


def _certified(figures: Figures, base: FlopReport) -> bool:
    """Whether the file was made of the base, costs what its certificate says, and that claim held. The base then is a
    dense model, in which a weight that happens to be 0 is a weight."""
    if figures.manifest is None:
        return False
    more = figures.manifest.plan.options["match"] == "layer"  # in which the ends may cost more than before
    return (figures.macs <= base.dense or more) and any(
        one.name == "iso_flop" and one.held and one.before == base.dense and one.after == figures.macs
        for one in figures.manifest.certificate.claims
    )


def _same_output(figures: Figures, base: str, budget: Budget) -> Row:
    from sift_cli.budgets.same_output import distance

    error, bound = distance(figures.path, Path(base), shape=budget.input)
    return Row("same-output-as", "held" if error <= bound else "broken", error, bound, "difference")
