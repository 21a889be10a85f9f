"""Several rules on one optimizer, seen as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sift_cli.errors import ModelError
from sift_cli.training.sparsifier import Sparsifier, Update

STATE = "sift.several_sparsifiers/1"


class SeveralRules(Sparsifier):
    """Sparsifiers of different weights of one model, which one optimizer trains, as if they were one.

    Args:
        parts: The sparsifiers. Each does its own work; here is what they have together.
    """

    def __init__(self, parts: Sequence[Sparsifier]) -> None:
        self.parts = tuple(parts)
        self._model = parts[0]._model
        self._weights = sorted((weight for part in parts for weight in part._weights), key=lambda weight: weight.name)
        self._kept_at_first = [part.kept for part in parts]
        self._spent = self._spent_by_parts()

    @property
    def step_count(self) -> int:  # type: ignore[override]
        return self.parts[0].step_count

    @property
    def history(self) -> list[Update]:  # type: ignore[override]
        """Updates of all parts; those after the same step are one."""
        kept = list(self._kept_at_first)
        by_step: dict[int, Update] = {}
        together = ((update.step, index, update) for index, part in enumerate(self.parts) for update in part.history)
        for step, index, update in sorted(together, key=lambda one: one[:2]):
            kept[index] = update.kept
            before = by_step[step].exchanged if step in by_step else {}
            by_step[step] = Update(step, {**before, **update.exchanged}, sum(kept))
        return list(by_step.values())

    def state_dict(self) -> dict[str, Any]:
        return {"format": STATE, "parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("format") != STATE or len(state["parts"]) != len(self.parts):
            raise ModelError(
                "this is the state of other rules", hint="pass what state_dict() of the same ones returned"
            )
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)
        self._spent = self._spent_by_parts()

    def remove(self) -> None:
        for part in self.parts:
            part.remove()

    def _spent_by_parts(self) -> dict[str, Any]:
        return {name: spent for part in self.parts for name, spent in part._spent.items()}
