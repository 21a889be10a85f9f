"""Run a model on symbolic sizes.

Every axis of every floating-point parameter and buffer, and every integer attribute of every module, gets a symbol of
its own; the model's ``forward`` then runs once on fake tensors (shapes without storage) and :class:`WidthEnv` notes
which of them must be equal. No operator needs a rule: the shape kernels of PyTorch know (:mod:`.rules` has the
exceptions). Attributes are solved together with the weights, because an argument that ``forward`` computes from an
attribute stays symbolic.
"""

from __future__ import annotations

import contextlib
import math
import os
import traceback
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
from sift_cli.models.calling import call, primary
from sift_cli.widths.env import WidthEnv, is_models_code
from sift_cli.widths.labels import Labels, Site
from sift_cli.widths.layout import Layout, layouts
from sift_cli.widths.rules import WidthRules

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


@dataclass(frozen=True)
class AttributeKey:
    """An integer attribute of a module, or one element of a tuple or list of integers.

    Attributes:
        module: Path of the module, "" for the model.
        name: Name of the attribute; "config.hidden_size" for one of the module's configuration.
        element: Place in the tuple or list, or None.
    """

    module: str
    name: str
    element: int | None = None


@dataclass(frozen=True)
class Slot:
    """One floating-point parameter or buffer, at one of the names it has in the model."""

    kind: Literal["parameter", "buffer"]
    name: str
    holder: dict[str, Any]
    key: str
    tensor: torch.Tensor


@dataclass
class Trace:
    """What one model said about its sizes.

    Attributes:
        env: The equations.
        axes, attributes: Symbols by where they occur.
        inputs: Symbols of the channels of floating-point inputs.
        sizes: Present value of each symbol.
        outputs: Outputs of heads, on symbolic sizes.
        heads: Batch sizes of products of activations: numbers of heads, windows or experts, never widths.
        layouts: Axes that operators split or merged, each once.
        labels: What each weight does.
        output_feeds_on: Label of these outputs.
        unused: Names of parameters that no operator reads, neither in eval mode nor in train mode.
    """

    env: WidthEnv
    labels: Labels
    axes: dict[tuple[str, int], sympy.Symbol] = field(default_factory=dict)
    attributes: dict[AttributeKey, sympy.Symbol] = field(default_factory=dict)
    inputs: list[sympy.Symbol] = field(default_factory=list)
    sizes: dict[sympy.Symbol, int] = field(default_factory=dict)
    outputs: list[torch.Tensor] = field(default_factory=list)
    heads: list[sympy.Expr] = field(default_factory=list)
    layouts: dict[Layout, None] = field(default_factory=dict)
    output_feeds_on: frozenset[str] = frozenset()
    unused: frozenset[str] = frozenset()

    @property
    def sites(self) -> list[Site]:
        return self.labels.sites


def slots(module: nn.Module) -> Iterator[Slot]:
    """Every parameter and buffer of ``module``, tied ones once a name."""
    for path, child in module.named_modules(remove_duplicate=True):
        prefix = f"{path}." if path else ""
        for kind, holder in (("parameter", child._parameters), ("buffer", child._buffers)):
            for key, tensor in holder.items():
                if tensor is not None:
                    yield Slot(kind, prefix + key, holder, key, tensor)  # type: ignore[arg-type]


@contextmanager
def replaced(module: nn.Module, found: list[Slot], stand_in: dict[int, torch.Tensor]) -> Iterator[None]:
    """Put ``stand_in[id(tensor)]`` in place of each tensor, and the tensors back again whatever happens."""
    recurrent = [child for child in module.modules() if isinstance(child, nn.RNNBase)]
    try:
        for slot in found:
            slot.holder[slot.key] = stand_in[id(slot.tensor)]
        for child in recurrent:
            _relink(child)
        yield
    finally:
        for slot in found:
            slot.holder[slot.key] = slot.tensor
        for child in recurrent:
            _relink(child)


def _relink(child: nn.RNNBase) -> None:
    """A recurrent layer keeps its parameters a second time, in a list."""
    child.__dict__["_flat_weights"] = [child._parameters[name] for name in child._flat_weights_names]


def trace(module: nn.Module, inputs: Any) -> Trace:
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
    buffers = {slot.name for slot in found if slot.kind == "buffer"}
    labels = Labels(labels_of, [t for t in tree_leaves(fake_inputs) if isinstance(t, torch.Tensor)], buffers)
    with replaced(module, found, stand_in), torch.no_grad(), fake, labels, WidthRules():
        outputs = _forward(module, fake_inputs)
    # A model of several heads is told from one that also hands out what a later layer reads: a head is read by none.
    heads = [index for index, tensor in enumerate(_tensors(outputs)) if labels.ends_in(tensor)]

    env = WidthEnv()
    fake = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    fake.cache_enabled = False  # no two layers have the same symbols, so it never hits and takes half of the time
    result = Trace(env, labels)
    result.output_feeds_on = frozenset[str]().union(*(labels.label(t) for t in _kept(outputs, heads)))
    fixed = labels.fixed
    stand_in = {}
    for slot in found:
        if id(slot.tensor) in stand_in:
            continue
        shape: list[int | torch.SymInt] = []
        for axis, size in enumerate(slot.tensor.shape):
            if size > 1 and slot.tensor.is_floating_point() and axis not in fixed.get(first_name[id(slot.tensor)], ()):
                symbol, sym_int = env.symbol(f"{slot.name}[{axis}]", size)
                result.axes[slot.name, axis] = symbol
                result.sizes[symbol] = size
                shape.append(sym_int)
            else:
                shape.append(size)
        stand_in[id(slot.tensor)] = _fake_like(fake, slot.tensor, shape)
    fake_inputs = tree_map_only(torch.Tensor, lambda t: _symbolic_input(fake, t, result), inputs)
    parameters = {id(slot.tensor) for slot in found if slot.kind == "parameter"}
    watch = _Watch(result, {id(stand_in[key]): name for key, name in first_name.items() if key in parameters})
    with (
        _symbolic_attributes(module, result), replaced(module, found, stand_in), _symbolic_math(),
        torch.no_grad(), fake, watch, WidthRules(),
    ):  # fmt: skip
        result.outputs = _kept(_forward(module, fake_inputs), heads)
        if watch.unused:  # auxiliary heads run in train mode only
            with _train_mode(module), contextlib.suppress(UnsupportedOp):
                result.outputs += _run(module, tree_map_only(torch.Tensor, lambda t: torch.cat([t, t]), fake_inputs))
    result.unused = frozenset(watch.unused)
    return result


@contextmanager
def _train_mode(module: nn.Module) -> Iterator[None]:
    modes = {child: child.training for child in module.modules()}
    module.train()
    try:
        yield
    finally:
        for child, mode in modes.items():
            child.training = mode


def output_shapes(module: nn.Module, inputs: Any) -> list[tuple[int, ...]]:
    """Shapes of the primary outputs, from a run on fake tensors. The module may be on any device, meta too.

    Raises:
        UnsupportedOp: It does not run.
    """
    found = list(slots(module))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    stand_in = {id(slot.tensor): _fake_like(fake, slot.tensor, slot.tensor.shape) for slot in found}
    fake_inputs = tree_map_only(torch.Tensor, lambda t: _fake_like(fake, t, t.shape), inputs)
    with replaced(module, found, stand_in), torch.no_grad(), fake:
        return [tuple(output.shape) for output in _run(module, fake_inputs)]


class _Watch(TorchDispatchMode):
    """Notes the operator that is running, the batch sizes of products of activations, and which weights are read."""

    def __init__(self, result: Trace, names: dict[int, str]) -> None:
        super().__init__()
        self._result = result
        self._names = names
        self.unused = set(names.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.bmm.default:
            self._count(args[0].shape[:1])
        elif "scaled_dot_product" in str(func):
            self._count(args[0].shape[:-2])
        if self.unused:
            self.unused -= {self._names.get(id(t), "") for t in tree_leaves((args, kwargs))}
        env = self._result.env
        outer, env.operator = env.operator, str(func)
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            env.operator = outer
        self._result.layouts |= dict.fromkeys(layouts(func, args, result))
        return result

    def _count(self, sizes: Any) -> None:
        self._result.heads += [size.node.expr for size in sizes if isinstance(size, torch.SymInt)]


def attribute_holders(module: nn.Module) -> Iterator[tuple[str, str, nn.Module, dict[str, Any]]]:
    """Where integer attributes live: each module, and each configuration object that it keeps, once.

    Yields:
        Path of the module, prefix of the attribute's name, the module, and the ``__dict__`` that has them.
    """
    seen: set[int] = set()
    for path, child in module.named_modules():
        yield path, "", child, child.__dict__
        for key, value in list(child.__dict__.items()):
            if hasattr(value, "to_dict") and type(value).__name__.endswith("Config") and id(value) not in seen:
                seen.add(id(value))
                yield path, f"{key}.", child, value.__dict__


@contextmanager
def _symbolic_attributes(module: nn.Module, result: Trace) -> Iterator[None]:
    changed: list[tuple[dict[str, Any], str, Any]] = []
    sizes_below: dict[str, set[int]] = {}
    for name, parameter in module.named_parameters():
        while name:
            name = name.rpartition(".")[0]
            sizes_below.setdefault(name, set()).update(parameter.shape[:2])

    def symbol(path: str, name: str, value: int, element: int | None = None) -> torch.SymInt:
        one, sym_int = result.env.symbol(f"{path}.{name}[{element}]", value)
        result.attributes[AttributeKey(path, name, element)] = one
        result.sizes[one] = value
        return sym_int

    try:
        for path, prefix, child, holder in attribute_holders(module):
            for key, value in list(holder.items()):
                if key.startswith("_") or (key in _NOT_A_WIDTH and not _is_a_width_here(child, key, value)):
                    continue
                new: Any
                if type(value) is int and value > 1:
                    new = symbol(path, prefix + key, value)
                elif _is_sizes(value) and not prefix and _may_be_widths(child, key, value, sizes_below.get(path)):
                    new = type(value)(
                        symbol(path, key, size, place) if size > 1 else size for place, size in enumerate(value)
                    )
                else:
                    continue
                changed.append((holder, key, value))
                holder[key] = new
        yield
    finally:
        for holder, key, value in changed:
            holder[key] = value


def _is_a_width_here(module: nn.Module, key: str, value: Any) -> bool:
    """``input_size`` is the size of an image but in recurrent layers; ``dim`` counts axes where it is small."""
    if key == "dim":
        return type(value) is int and value > 7
    return isinstance(module, nn.RNNBase) and key == "input_size"


def _is_sizes(value: Any) -> bool:
    return type(value) in (tuple, list) and 0 < len(value) <= 8 and all(type(size) is int for size in value)


def _may_be_widths(module: nn.Module, key: str, sizes: Any, below: set[int] | None) -> bool:
    """Whether a tuple of integers can hold widths: of PyTorch's own modules only a norm's shape does; another module's
    does if one of the numbers is the size of a parameter in it."""
    if type(module).__module__.startswith("torch.nn."):
        return key == "normalized_shape"
    return key == "normalized_shape" or any(size > 1 and size in (below or ()) for size in sizes)


@contextmanager
def _symbolic_math() -> Iterator[None]:
    """``math.sqrt`` and ``float`` of a symbolic size would make a Python number of it, and with it a literal of the
    width; but what they make is a scale (of attention) and no size."""
    sqrt = math.sqrt
    math.sqrt = lambda x: sqrt(x.node.hint if isinstance(x, torch.SymInt) else x)  # type: ignore[assignment]
    torch.SymInt.__float__ = lambda size: float(size.node.hint)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        math.sqrt = sqrt
        del torch.SymInt.__float__  # type: ignore[attr-defined]  # it has none of its own


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


def _tensors(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def _kept(output: Any, heads: list[int]) -> list[torch.Tensor]:
    """The tensors of an output whose sizes stay: those that a user means, and what other heads return."""
    tensors = _tensors(output)
    return [*primary(output), *(tensors[index] for index in heads if index < len(tensors))]


def _run(module: nn.Module, inputs: Any) -> list[torch.Tensor]:
    return list(primary(_forward(module, inputs)))


def _forward(module: nn.Module, inputs: Any) -> Any:
    current = [""]
    hooks = [
        child.register_forward_pre_hook(lambda _m, _a, path=path: current.__setitem__(0, path))
        for path, child in module.named_modules()
    ]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it has no shape kernel
    try:
        return call(module, inputs)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, IndexError) as error:
        raise UnsupportedOp(
            _innermost_call(error),
            current[0] or type(module).__name__,
            f"it does not run on symbolic sizes ({_first_sentence(error)})",
            hint="--kind parallel, factorized or doped replaces single layers and asks for no widths",
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()


def _innermost_call(error: Exception) -> str:
    """The line of the model's own code that failed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_models_code(f.filename)]
    return f"{frames[-1].line} ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else "forward"


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
