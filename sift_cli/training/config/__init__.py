"""Sparse training from a file: configurations in the words of Cerebras' tools. torch is imported by ``sparsify``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sift_cli.errors import PlanError
from sift_cli.training.config import dialects
from sift_cli.training.config.groups import Group
from sift_cli.training.schedules import Constant

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from sift_cli.training.sparsifier import Sparsifier

__all__ = ["SparsityConfig"]


@dataclass(frozen=True)
class SparsityConfig:
    """Which weights become sparse, how sparse, and how their masks move.

    >>> config = SparsityConfig.parse({"algorithm": "rigl", "sparsity": 0.9, "update": {"freq": 100, "stop": 7500}})
    >>> sparsifier = config.sparsify(model, optimizer, total_steps=10_000)

    Attributes:
        groups: Groups of weights; of several that have a weight the first one counts.
    """

    groups: tuple[Group, ...]

    @classmethod
    def load(cls, path: str | Path) -> SparsityConfig:
        """Read a YAML file: a configuration by itself, or that of a whole run with a section ``sparsity``.

        Raises:
            Unreadable: There is no such file.
            PlanError: It is no YAML, or no configuration; the message has the path of keys.
        """
        from sift_cli.training.config.reading import read

        document = read(Path(path))
        try:
            return cls.parse(*dialects.find(document))
        except PlanError as error:
            raise PlanError(f"{path}: {error.message}", hint=error.hint) from None

    @classmethod
    def parse(cls, value: float | Mapping[str, Any] | Sequence[Any] | None, at: str = "") -> SparsityConfig:
        """A configuration from plain values.

        Args:
            value: A sparsity, settings by name, or a list of such.
            at: Path of keys to ``value``, for errors.

        Raises:
            PlanError: It is none.
        """
        return cls(tuple(dialects.groups(value, at)))

    def sparsify(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        total_steps: int | None = None,
        seed: int = 0,
        process_group: Any = None,
    ) -> Sparsifier:
        """Train ``model`` as it is configured here. Call it when and as :func:`sift_cli.sparsify`.

        Args:
            model: A model; with masks only where the configuration says ``init_method: from_zeros``.
            optimizer: Its optimizer.
            total_steps: Steps of the optimizer in the whole training, to see whether there is an update in them.
            seed: Seed of masks and of random growth, where the configuration has none.
            process_group: The processes that train this model; None for all.

        Raises:
            PlanError: A group is for no weight, or its masks would never move.
            ModelError: The model has masks already, or the optimizer does not train it.
        """
        from sift_cli.surgery import carry
        from sift_cli.training.config.masks import choose, first_masks
        from sift_cli.training.masking import all_or_nothing
        from sift_cli.training.names import plain_name
        from sift_cli.training.several import SeveralRules
        from sift_cli.training.sparsifier import Sparsifier

        chosen = choose(model, self.groups)
        for group in chosen.values():
            _check_moves(group, total_steps)
        alike: dict[Any, dict[str, Group]] = {}
        for name, group in chosen.items():
            own = seed if group.seed is None else group.seed
            moves = () if group.rule == "static" else (group.updates, group.drop_fraction, own)
            alike.setdefault((group.rule, *moves), {})[plain_name(model, name)] = group
        with all_or_nothing(model), ExitStack() as made:
            carry(model, first_masks(model, chosen, seed))
            parts = []
            for weights in alike.values():
                group = next(iter(weights.values()))
                part = Sparsifier(
                    model,
                    optimizer,
                    group.rule,
                    updates=group.updates if group.rule != "static" else (),
                    drop_fraction=group.drop_fraction,
                    sparsity={name: one.sparsity for name, one in weights.items() if _moves_to(one)},  # type: ignore[misc]
                    weights=weights,
                    seed=seed if group.seed is None else group.seed,
                    process_group=process_group,
                )
                made.callback(part.remove)
                parts.append(part)
            made.pop_all()
        return parts[0] if len(parts) == 1 else SeveralRules(parts)


def _moves_to(group: Group) -> bool:
    """Whether the number of kept weights is not to stay that of the first mask."""
    if group.rule == "static" or group.sparsity is None:
        return False
    return not (isinstance(group.sparsity, Constant) and group.starts_sparse and group.start != "from_zeros")


def _check_moves(group: Group, total: int | None) -> None:
    if group.rule == "static" or total is None:
        return
    if group.updates.before(total + 1) == group.updates.before(1):
        raise PlanError(
            f"{group.at} has no update in {total} steps, so its masks would never move",
            hint="give update a lower freq or start, or take the algorithm static",
        )
