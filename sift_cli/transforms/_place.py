"""What each layer is to its model, by its place in one forward pass."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sift_cli.errors import UnsupportedOp
from sift_cli.models.calling import Inputs, call, primary, tensors_of
from sift_cli.widths.labels import INPUT, Labels

aten = torch.ops.aten
_SUMS = frozenset({aten.add.Tensor, aten.add_.Tensor})


@dataclass(frozen=True)
class Places:
    """Of every weight that was multiplied with.

    Attributes:
        roles: "first" (it contracts the model's input), "last" (nothing contracts its result before the output),
            "shortcut" (a 1×1 convolution from the start of a residual branch to its end) or "hidden".
        uses: How often the forward pass multiplied with it.
        calls: How often it called the module at a path.
    """

    roles: Mapping[str, str]
    uses: Counter[str]
    calls: Counter[str]


def places(module: nn.Module, inputs: Inputs) -> Places:
    """Run ``module`` once and look. On the meta device nothing is computed.

    Raises:
        UnsupportedOp: It does not run on ``inputs``.
    """
    named = (*module.named_parameters(), *module.named_buffers())
    sums = _Sums({id(tensor): name for name, tensor in reversed(named)}, list(tensors_of(inputs)))
    calls: Counter[str] = Counter()
    hooks = [
        child.register_forward_pre_hook(lambda *_, path=path: calls.update([path]))
        for path, child in module.named_modules()
    ]
    try:
        with torch.no_grad(), sums:
            outputs = primary(call(module, inputs))
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, IndexError) as error:
        why = f"it does not run on the meta device ({str(error).strip().splitlines()[0]})"
        raise UnsupportedOp("the forward pass", type(module).__name__, why) from error
    finally:
        for hook in hooks:
            hook.remove()
    last = frozenset[str]().union(*map(sums.label, outputs))
    shortcuts = set(_shortcuts(module, sums))
    roles = {}
    for site in sums.sites:
        if INPUT in site.feeds_on:
            roles[site.weight] = "first"
        elif site.weight in last:
            roles[site.weight] = "last"
        else:
            roles[site.weight] = "shortcut" if site.weight in shortcuts else "hidden"
    return Places(roles, Counter(site.weight for site in sums.sites), calls)


class _Sums(Labels):
    """Labels, and which two meet in a sum."""

    def __init__(self, names: dict[int, str], inputs: list[Tensor]) -> None:
        super().__init__(names, inputs)
        self.met: list[tuple[frozenset[str], frozenset[str]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SUMS and all(isinstance(term, Tensor) for term in args[:2]):
            self.met.append((self.label(args[0]), self.label(args[1])))
        return super().__torch_dispatch__(func, types, args, kwargs)


def _shortcuts(module: nn.Module, sums: _Sums) -> Iterator[str]:
    """1×1 convolutions whose result meets, in a sum, that of a longer way from the same activation."""
    sources: dict[str, set[frozenset[str]]] = defaultdict(set)
    for site in sums.sites:
        sources[site.weight].add(site.feeds_on)
    parameters = dict(module.named_parameters())

    def is_pointwise(name: str) -> bool:
        weight = parameters.get(name)
        return weight is not None and weight.dim() > 2 and weight[0, 0].numel() == 1

    for left, right in sums.met:
        for ends, others in ((left, right), (right, left)):
            for name in filter(is_pointwise, ends):
                for other in others:
                    before = _ancestors(other, sources)
                    if name not in before and any(sources[name] & sources[one] for one in before):
                        yield name


def _ancestors(weight: str, sources: Mapping[str, set[frozenset[str]]]) -> set[str]:
    """Weights on any way from the input to ``weight``, without itself."""
    found: set[str] = set()
    todo = [weight]
    while todo:
        for feeds_on in sources.get(todo.pop(), ()):
            new = feeds_on - found
            found |= new
            todo += new
    return found - {weight}
