"""Rules: which connections a sparse layer gives up, and which it tries instead.

A rule is a module in this folder. It offers

* ``USES``: what it looks at, of "weight" and "gradient"; nothing, and masks never move. The gradient is that of the
  weights which are not there, and costs a dense backward pass for the weights of that step;
* ``update(layer) -> MaskUpdate``, a pure function of a :class:`Layer`: the same update for the same layer, in every
  process, on every rank;
* optionally ``ramp(initial, final, updates) -> Schedule``, if the rule leads from one sparsity to another by itself.

:class:`~sift_cli.training.Sparsifier` calls it after the optimizer's steps that are updates, and is the only one that
changes tensors.
"""

from __future__ import annotations

import difflib
from types import ModuleType

from sift_cli.errors import PlanError
from sift_cli.registry import discover, names
from sift_cli.training.rules._base import Layer, MaskUpdate

__all__ = ["Layer", "MaskUpdate", "find"]


def find(rule: str) -> ModuleType:
    """The rule of this name.

    Raises:
        PlanError: There is none.
    """
    known = names(__name__)
    if rule not in known:
        near = difflib.get_close_matches(str(rule), known, n=1)
        raise PlanError(
            f"there is no rule {str(rule)[:40]!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(known)}",
        )
    return discover(__name__)[rule]
