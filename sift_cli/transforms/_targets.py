"""Which layers of a model can be replaced, and which stay for what reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from sift_cli import layers
from sift_cli.core.counts import FlopReport
from sift_cli.transforms._layers import check_globs, used_weights, weight_names
from sift_cli.transforms._options import TransformOptions
from sift_cli.transforms._place import Places

#: Modules that read the weights of their layers and may compute with them without calling the layer.
_READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@dataclass(frozen=True)
class Dense:
    """A layer as it is before anything is replaced.

    Attributes:
        path: Its module.
        op: "conv" or "linear".
        weight: Name of its weight.
        role: "target" if it is to be replaced, else the role that it gets in the plan.
        positions: Times each weight is used in a forward pass.
        budget: Weights that it had in the original model.
        weights: Weights that it has now, which is more in a model that was widened.
        inputs, outputs: D_in and D_out now; 0 where it is no layer that can be replaced.
        biased: Whether it has a bias.
    """

    path: str
    op: str
    weight: str
    role: str
    positions: int
    budget: int
    weights: int
    inputs: int = 0
    outputs: int = 0
    biased: bool = False


def sort(
    original: nn.Module,
    module: nn.Module,
    report: FlopReport,
    placed: Places,
    options: TransformOptions,
    stays: Collection[str],
) -> tuple[list[Dense], list[str]]:
    """Every layer with a weight, in order of execution, and sentences about those that cannot be replaced.

    Args:
        original: The model.
        module: The model whose layers are to be replaced, on the meta device: ``original``, or that at other widths.
        report: MACs of ``module``.
        placed: Places of its weights.
        options: ``only`` and ``keep`` are looked at.
        stays: Roles of layers that stay as they are unless a glob names them.

    Raises:
        PlanError: A glob matches no layer.
    """
    before, now = dict(original.named_parameters()), dict(module.named_parameters())
    used = used_weights(module, report)
    check_globs(options, sorted({use.layer for use in used.values()}))
    reasons: dict[str, list[str]] = defaultdict(list)
    found = []
    aliases = weight_names(module)
    for weight, use in used.items():
        path = use.layer
        shared = [name for name, one in aliases.items() if one == weight and name != f"{path}.weight"]
        if shared and f"{path}.weight" in aliases:
            why: str | None = f"shares its weight with {shared[0].rpartition('.')[0]}"
        else:
            why = _obstacle(module, path, weight, placed)
        selected, role = options.selects(path), placed.roles.get(weight, "hidden")
        if selected is False:
            role = "kept"
        elif selected is None and role in stays:
            pass
        elif why is not None:
            reasons[why].append(path)
            role = "kept"
        else:
            role = "target"
        layer = module.get_submodule(path)
        shape = (*layers.sizes_of(layer), layers.bias_of(layer) is not None) if why is None else ()
        found.append(
            Dense(path, use.op, weight, role, use.positions, before[weight].numel(), now[weight].numel(), *shape)
        )
    notes = [f"{_listed(paths)}: kept, because it {why}" for why, paths in reasons.items()]
    return found, notes


def _obstacle(module: nn.Module, path: str, weight: str, placed: Places) -> str | None:
    """Why the layer at ``path`` cannot be replaced, in words that follow "it"; None where it can."""
    if weight != f"{path}.weight" or not path:
        return "is no module of its own"
    why = layers.refusal(module.get_submodule(path))
    if why is not None:
        return why
    parent = module.get_submodule(path.rpartition(".")[0])
    if isinstance(parent, _READERS) or placed.calls[path] != placed.uses[weight]:
        return f"is read by {type(parent).__name__} without being called"
    return None


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
