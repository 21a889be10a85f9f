"""Results of :mod:`iso_flop` as pictures: accuracy against sparsity, a panel a kind, the dense model as a band.

Needs matplotlib, which nothing else here does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report import KINDS, RULES, SPARSITIES, Results, accuracy

COLOURS = {"static": "#999999", "set": "#e08214", "rigl": "#2b8cbe"}
#: Between black and white, so that it can be read on both.
INK = "#7a7a7a"
PANELS = ("wide", "parallel", "factorized", "doped")


def plot(task: str, results: Results, path: Path) -> None:
    """Write an SVG."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same results make the same file.
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": task, "font.family": "sans-serif", "font.size": 9}
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    matplotlib.rcParams.update(style | dict.fromkeys(inked, INK))
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(10, 3.2), sharey=True, layout="constrained")
    dense = accuracy(results.dense)
    places = list(range(len(SPARSITIES)))
    for panel, kind in zip(panels, PANELS, strict=True):
        panel.axhspan(dense.mean - dense.deviation, dense.mean + dense.deviation, color=INK, alpha=0.25, lw=0)
        panel.axhline(dense.mean, color=INK, lw=1, label="dense, ± std")
        for sigma in (sigma for of, sigma in KINDS if of == kind):
            for shift, (rule, said) in zip((-0.08, 0, 0.08), RULES.items(), strict=True):
                cells = [results[kind, sigma, s, rule] for s in SPARSITIES]
                points = [(place + shift, accuracy(runs)) for place, runs in zip(places, cells, strict=True) if runs]
                if not points:
                    continue
                panel.errorbar(
                    [x for x, _ in points], [y.mean for _, y in points], [y.deviation for _, y in points],
                    color=COLOURS[rule], marker="o", ms=4, lw=1.2, capsize=2,
                    ls=":" if sigma is False else "-", mfc="none" if sigma is False else None,
                    label=f"{said}, no σ" if sigma is False else said,
                )  # fmt: skip
        panel.set_xticks(places, [str(s) for s in SPARSITIES.values()])
        panel.set_xlim(-0.4, len(places) - 0.6)
        panel.set_title(kind, color=INK)
        panel.set_xlabel("sparsity s")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"{task}: test accuracy, %")
    legend = {said: line for panel in panels for line, said in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=len(legend), frameon=False)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)
