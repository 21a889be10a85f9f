"""Run a model on symbolic sizes.

Every axis of every floating-point parameter and buffer, and every integer attribute of every module, gets a symbol of
its own; the model's ``forward`` then runs once on fake tensors (shapes without storage) and :class:`WidthEnv` notes
which of them must be equal. No operator needs a rule: the shape kernels of PyTorch know. Attributes are solved
together with the weights, because an argument that ``forward`` computes from an attribute stays symbolic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import sympy
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sift_cli.errors import UnsupportedOp
from sift_cli.widths.env import WidthEnv

aten = torch.ops.aten

#: Integer attributes that are never a width: counts, strides, positions, vocabulary.
_NOT_A_WIDTH = frozenset(
    """
    kernel_size stride padding dilation output_padding output_size padding_idx start_dim end_dim dim num_embeddings
    num_layers upscale_factor downscale_factor num_batches_tracked num_classes num_labels patch_size image_size img_size
    input_size layer_idx depth output_stride vocab_size max_position_embeddings n_positions n_ctx n_layer
    num_hidden_layers pad_token_id bos_token_id eos_token_id
    """.split()  # noqa: SIM905 a list of 35 strings is no easier to read
)

#: Contractions: operators that multiply activations with a weight, and the argument that holds the weight.
_CONTRACTIONS = {
    aten.convolution.default: 1,
    aten.addmm.default: 2,
    aten.mm.default: 1,
    aten.linear.default: 1,
}


@dataclass(frozen=True)
class Slot:
    """One floating-point parameter or buffer, at one of the names it has in the model."""

    kind: Literal["parameter", "buffer"]
    name: str
    holder: dict[str, Any]
    key: str
    tensor: torch.Tensor


@dataclass
class Site:
    """One use of a weight in a contraction."""

    weight: str
    op: str
    groups: int
    feeds_on: frozenset[str]


@dataclass
class Trace:
    """What one model said about its sizes."""

    env: WidthEnv
    axes: dict[tuple[str, int], sympy.Symbol] = field(default_factory=dict)
    attributes: dict[tuple[str, str], sympy.Symbol] = field(default_factory=dict)
    inputs: list[sympy.Symbol] = field(default_factory=list)
    sizes: dict[sympy.Symbol, int] = field(default_factory=dict)
    outputs: list[torch.Tensor] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    output_feeds_on: frozenset[str] = frozenset()


def slots(module: nn.Module) -> Iterator[Slot]:
    """Every parameter and buffer of ``module``, tied ones once a name."""
    for path, child in module.named_modules(remove_duplicate=True):
        prefix = f"{path}." if path else ""
        for kind, holder in (("parameter", child._parameters), ("buffer", child._buffers)):
            for key, tensor in holder.items():
                if tensor is not None:
                    yield Slot(kind, prefix + key, holder, key, tensor)  # type: ignore[arg-type]


@contextmanager
def replaced(found: list[Slot], stand_in: dict[int, torch.Tensor]) -> Iterator[None]:
    """Put ``stand_in[id(tensor)]`` in place of each tensor, and the tensors back again whatever happens."""
    try:
        for slot in found:
            slot.holder[slot.key] = stand_in[id(slot.tensor)]
        yield
    finally:
        for slot in found:
            slot.holder[slot.key] = slot.tensor


class _Labels(TorchDispatchMode):
    """Concrete pass: follow each activation back to the contractions it comes from, and note which axes are fixed.

    An activation's label is the set of weights whose contractions feed it with no other contraction in between.
    """

    INPUT = "<input>"

    def __init__(self, names: dict[int, str], inputs: list[torch.Tensor]) -> None:
        super().__init__()
        self.weights = dict(names)
        self.labels: dict[int, frozenset[str]] = {id(t): frozenset([self.INPUT]) for t in inputs}
        self.sites: list[Site] = []
        self.fixed: dict[str, set[int]] = defaultdict(set)
        self._alive: list[torch.Tensor] = []  # ids are compared, so nothing may be freed and its id reused

    def label(self, tensor: torch.Tensor) -> frozenset[str]:
        return self.labels.get(id(tensor), frozenset())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operands = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        results = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        self._alive += operands + results
        activations = [t for t in operands if id(t) not in self.weights]
        if not activations and len(operands) == 1 and len(results) == 1 and func.is_view:
            self.weights[id(results[0])] = self.weights[id(operands[0])]  # a transposed weight is still that weight
            return result
        label = frozenset[str]().union(*(self.label(t) for t in activations))
        position = _CONTRACTIONS.get(func)
        if position is not None and id(args[position]) in self.weights:
            name = self.weights[id(args[position])]
            is_conv = func is aten.convolution.default
            self.sites.append(Site(name, "conv" if is_conv else "linear", args[8] if is_conv else 1, label))
            if is_conv:
                self.fixed[name] |= set(range(2, args[position].dim()))
            label = frozenset([name])
        elif func is aten.embedding.default and id(args[0]) in self.weights:
            name = self.weights[id(args[0])]
            self.fixed[name].add(0)
            label = frozenset([name])
        for tensor in results:
            self.labels[id(tensor)] = label
        return result


def trace(module: nn.Module, inputs: tuple[Any, ...]) -> Trace:
    """Trace ``module`` (any device, in eval mode) on inputs of the shapes of ``inputs``. The module is left as it was.

    Raises:
        UnsupportedOp: ``forward`` does something that fake tensors or symbolic sizes cannot follow.
    """
    found = [slot for slot in slots(module) if slot.tensor.is_floating_point() or slot.kind == "buffer"]
    first_name: dict[int, str] = {}
    for slot in found:
        first_name.setdefault(id(slot.tensor), slot.name)

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    stand_in = {id(s.tensor): _fake_like(fake, s.tensor, s.tensor.shape) for s in found}
    labels_of = {id(stand_in[key]): name for key, name in first_name.items()}
    fake_inputs = tree_map_only(torch.Tensor, lambda t: _fake_like(fake, t, t.shape), inputs)
    labels = _Labels(labels_of, [t for t in tree_leaves(fake_inputs) if isinstance(t, torch.Tensor)])
    with replaced(found, stand_in), torch.no_grad(), fake, labels:
        outputs = _run(module, fake_inputs)

    env = WidthEnv()
    fake = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    result = Trace(env, sites=labels.sites)
    result.output_feeds_on = frozenset[str]().union(*(labels.label(t) for t in outputs))
    stand_in = {}
    for slot in found:
        if id(slot.tensor) in stand_in:
            continue
        shape: list[int | torch.SymInt] = []
        for axis, size in enumerate(slot.tensor.shape):
            if size > 1 and slot.tensor.is_floating_point() and axis not in labels.fixed[first_name[id(slot.tensor)]]:
                symbol, sym_int = env.symbol(f"{slot.name}[{axis}]", size)
                result.axes[slot.name, axis] = symbol
                result.sizes[symbol] = size
                shape.append(sym_int)
            else:
                shape.append(size)
        stand_in[id(slot.tensor)] = _fake_like(fake, slot.tensor, shape)
    fake_inputs = tree_map_only(torch.Tensor, lambda t: _symbolic_input(fake, t, result), inputs)
    with _symbolic_attributes(module, result), replaced(found, stand_in), torch.no_grad(), fake:
        result.outputs = _run(module, fake_inputs)
    return result


@contextmanager
def _symbolic_attributes(module: nn.Module, result: Trace) -> Iterator[None]:
    changed: list[tuple[dict[str, Any], str, int]] = []
    try:
        for path, child in module.named_modules():
            for key, value in list(child.__dict__.items()):
                if type(value) is int and value > 1 and not key.startswith("_") and key not in _NOT_A_WIDTH:
                    symbol, sym_int = result.env.symbol(f"{path}.{key}", value)
                    result.attributes[path, key] = symbol
                    result.sizes[symbol] = value
                    changed.append((child.__dict__, key, value))
                    child.__dict__[key] = sym_int
        yield
    finally:
        for holder, key, value in changed:
            holder[key] = value


def _symbolic_input(mode: FakeTensorMode, tensor: torch.Tensor, result: Trace) -> torch.Tensor:
    """A fake input whose channel axis is a symbol, so that what it couples to can be told from what a literal fixes."""
    shape: list[int | torch.SymInt] = list(tensor.shape)
    if tensor.is_floating_point() and tensor.dim() > 1 and tensor.shape[1] > 1:
        symbol, shape[1] = result.env.symbol(f"input[{len(result.inputs)}]", tensor.shape[1])
        result.inputs.append(symbol)
        result.sizes[symbol] = tensor.shape[1]
    return _fake_like(mode, tensor, shape)


def _fake_like(mode: FakeTensorMode, tensor: torch.Tensor, shape: Any) -> torch.Tensor:
    with mode:
        return torch.empty(tuple(shape), dtype=tensor.dtype, device="cpu")


def _run(module: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    current = [""]
    hooks = [
        child.register_forward_pre_hook(lambda _m, _a, path=path: current.__setitem__(0, path))
        for path, child in module.named_modules()
    ]
    try:
        output = module(*inputs)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedOp(
            "the forward pass", current[0] or type(module).__name__, f"it does not run on symbolic sizes ({reason})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return [t for t in tree_leaves(output) if isinstance(t, torch.Tensor)]
