"""How large the space is that a sparse training method searches for masks.

Source: Saxena et al., "Sparse Iso-FLOP Transformations for Maximizing Training Efficiency", section 2.5: "the
cardinality of a search space [is] the number of weights a sparse training method can explore", and table 1. Of a dense
layer of D_in × D_out weights (a convolution: c_in·k_h·k_w × c_out) at sparsity s, these are

    ========== ==================== ==========================================
    wide       k² · D_in · D_out    k = 1/√(1−s), the factor of both widths
    parallel   k · D_in · D_out     k = 1/(1−s), the number of branches
    factorized d · (D_in + D_out)   d = D_in·D_out / ((D_in + D_out)(1−s))
    doped      D_in · D_out         whatever the sparsity
    ========== ==================== ==========================================

With k and d as real numbers the first three are D_in·D_out / (1−s) alike. Here they are the whole numbers of a plan,
so the formulas give whole numbers too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

#: Layer that takes a dense one's place → its cardinality from (its arguments, D_in, D_out).
TABLE: dict[str, Callable[[Mapping[str, Any], int, int], int]] = {
    "parallel": lambda given, inputs, outputs: given["branches"] * inputs * outputs,
    "factorized": lambda given, inputs, outputs: given["rank"] * (inputs + outputs),
    "doped": lambda given, inputs, outputs: inputs * outputs,
}


def log2_masks(weights: int, kept: int) -> float:
    """log₂ of the number of masks that keep ``kept`` of ``weights`` weights, C(weights, kept); good to 1e-9 of itself.

    >>> round(log2_masks(4, 2), 12) == round(math.log2(6), 12)
    True
    """
    nats = math.lgamma(weights + 1) - math.lgamma(kept + 1) - math.lgamma(weights - kept + 1)
    return nats / math.log(2)
