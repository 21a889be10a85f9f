"""What a configuration asks for: groups of weights, each with its own way to become sparse and to stay it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sift_cli.training.config.schedules import Every, Updates
from sift_cli.training.schedules import Constant, Schedule

#: Parts of names that are dense by default. Source: ``default_sparse_param_filter`` of cerebras-pytorch,
#: ``cerebras/pytorch/sparse/configure.py``; release 1.7 had the first two only.
DENSE = ("embedding", "norm", "lm_head", "pe_helper")


@dataclass(frozen=True)
class Names:
    """Which weights are meant, by name.

    Attributes:
        patterns: One of these is found in the name; None is the default, all names without a part in :data:`DENSE`.
    """

    patterns: tuple[re.Pattern[str], ...] | None = None

    @classmethod
    def globs(cls, globs: Iterable[str]) -> Names:
        """Names that are, as a whole, like one of ``globs``."""
        return cls(tuple(re.compile(r"\A" + fnmatch.translate(glob)) for glob in globs))

    def select(self, name: str) -> bool:
        if self.patterns is None:
            return not any(part in name.lower() for part in DENSE)
        return any(pattern.search(name) for pattern in self.patterns)


@dataclass(frozen=True)
class Group:
    """Weights, and what happens to them.

    Attributes:
        at: Where the configuration has it, by keys.
        names: The weights.
        rule: "static", "set", "rigl" or "gmp".
        sparsity: By step; None leaves the weights dense, or as sparse as they are where ``start`` is "from_zeros".
        start: Which weights the first mask keeps: "random", "topk", "balanced-topk" (as many in each column),
            "checkerboard", or "from_zeros", those it has.
        balance: ("in" or "out", n): the first mask keeps as many weights in each of n groups of inputs or outputs.
        updates: Steps after which masks move.
        drop_fraction: Share of the kept weights that an update exchanges, by step.
        seed: Seed of chance, where the configuration has one.
    """

    at: str
    names: Names
    rule: str = "static"
    sparsity: Schedule | None = None
    start: str = "random"
    balance: tuple[str, int] | None = None
    updates: Updates = Every()  # noqa: RUF009
    drop_fraction: Schedule = Constant(0.3)  # noqa: RUF009
    seed: int | None = None

    @property
    def dense(self) -> bool:
        """Whether its weights stay dense."""
        return self.sparsity is None and self.start != "from_zeros"

    @property
    def starts_sparse(self) -> bool:
        """Whether there are masks before the first step. If not, all weights are kept up to the first update."""
        return self.rule == "static" or 0 in self.updates
