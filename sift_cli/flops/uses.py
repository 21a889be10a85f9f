"""From operators met in a forward pass to a report by layer: who used which weight, and how much of it is kept."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sift_cli.core.counts import FlopReport, LayerCount, uncounted_from
from sift_cli.errors import ModelError, UnsupportedOp


@dataclass(frozen=True)
class Use:
    """One operator met in a forward pass.

    Attributes:
        module: Path of the module that was running.
        op: "conv", "matmul" or "attention".
        macs: Its MACs, every weight counted.
        weight: First state_dict name of the weight it multiplied with, or None.
        covered: How many different elements of that weight took part.
    """

    module: str
    op: str
    macs: int
    weight: str | None = None
    covered: int = 0


class Weights:
    """The named weights of a module and how many elements of each are kept.

    Args:
        module: The module to be counted; it is only read.
        nonzero: Kept elements by state_dict name; a weight that is not in it counts as dense. None counts the nonzero
            elements of the tensors themselves, where they have data.

    Raises:
        ModelError: ``nonzero`` has a name that the module has not, or a number outside [0, numel].
    """

    def __init__(self, module: nn.Module, nonzero: Mapping[str, int] | None) -> None:
        self._tensors = named_tensors(module)
        first = first_names(self._tensors)
        self._aliases: dict[str, list[str]] = {}
        for name, tensor in self._tensors.items():
            self._aliases.setdefault(first[id(tensor)], []).append(name)
        self._attention = {name for name, child in module.named_modules() if isinstance(child, nn.MultiheadAttention)}
        self._kept: dict[str, int] = {}
        self._count_zeros = nonzero is None
        for name, kept in (nonzero or {}).items():
            if name not in self._tensors:
                close = difflib.get_close_matches(name, self._tensors, n=1)
                hint = f"did you mean {close[0]!r}?" if close else None
                raise ModelError(f"the model has no weight named {name!r}", hint=hint, name=name)
            tensor = self._tensors[name]
            if not 0 <= kept <= tensor.numel():
                raise ModelError(f"{name} has {tensor.numel()} weights and cannot keep {kept} of them", name=name)
            self._kept[first[id(tensor)]] = kept

    def numel(self, name: str) -> int:
        return self._tensors[name].numel()

    def kept(self, name: str) -> int:
        """Kept elements of the weight with the first name ``name``."""
        if name not in self._kept:
            tensor = self._tensors[name]
            real = self._count_zeros and not tensor.is_meta
            self._kept[name] = int(tensor.detach().count_nonzero()) if real else tensor.numel()
        return self._kept[name]

    def kind(self, use: Use) -> str:
        """The operator's name: a product with a weight is linear, one inside multi-head attention is attention."""
        if use.op == "matmul" and use.weight is not None:
            return "linear"
        return "attention" if use.op == "matmul" and use.module in self._attention else use.op

    def layer(self, module: str, weight: str | None) -> tuple[str, str | None]:
        """The layer to name for a use of ``weight`` in ``module``, and which of the weight's names to give.

        A tied weight has several names; the one in the running module is the one meant. A weight that belongs below the
        running module (the output projection of an attention block, used as a function) names its own module.
        """
        if weight is None:
            return module, None
        inside = f"{module}." if module else ""
        candidates = [name for name in self._aliases[weight] if name.startswith(inside)]
        candidates.sort(key=lambda name: name.count("."))
        if not candidates:
            return module, weight
        return candidates[0].rpartition(".")[0], candidates[0]


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state_dict's tensors themselves (not detached), every name of a tied one."""
    return {name: value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def first_names(tensors: Mapping[str, Tensor]) -> dict[int, str]:
    """``id(tensor)`` → the first name it goes by."""
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    return first


def report(uses: Iterable[Use], uncounted: Counter[str], weights: Weights, counter: str) -> FlopReport:
    """Uses, merged into one entry a layer in order of first execution.

    Raises:
        UnsupportedOp: The MACs of a use are not a whole number of passes over the weight.
    """
    layers: dict[tuple[str, str | None, str], list[Use]] = {}
    for use in uses:
        op = weights.kind(use)
        name, weight = weights.layer(use.module, use.weight)
        layers.setdefault((name, weight, op), []).append(use)
    counted = tuple(
        LayerCount(name, op, sum(use.macs for use in group), _sparse(group, weights), weight)
        for (name, weight, op), group in layers.items()
    )
    return FlopReport(counted, uncounted_from(uncounted), counter)


def _sparse(uses: list[Use], weights: Weights) -> int:
    """MACs with kept weights only, exact wherever a weight is used whole, also when it is used whole in several parts.

    Of a part that is used on its own, nobody knows how many of the kept weights lie in it; as many as possible are
    assumed.
    """
    weight = uses[0].weight
    if weight is None:
        return sum(use.macs for use in uses)
    covered: Counter[int] = Counter()
    for use in uses:
        positions, rest = divmod(use.macs, use.covered) if use.covered else (0, use.macs)
        if rest:
            raise UnsupportedOp(use.op, use.module, f"{use.macs} MACs on {use.covered} weights of {weight}")
        covered[positions] += use.covered
    total = 0
    for positions, elements in covered.items():
        passes, part = divmod(elements, max(weights.numel(weight), 1))
        total += positions * (passes * weights.kept(weight) + min(part, weights.kept(weight)))
    return total
