"""The widths of a model: groups of axes that are one and the same number, how the groups relate, and what each faces.

How it is decided which groups may scale. Let a group's *degree* be 1 if its size scales with the width factor and 0
if it stays. In every equation between sizes all terms must have the same degree, which propagates: a constant has
degree 0, a product has the sum of its factors'. Degrees are fixed in this order, propagating each time: what a
constant forces; the model's inputs and outputs (0); batch sizes of products of activations, which are numbers of heads
(0, so it is the size of a head that scales); groups of a convolution (1 if it is depthwise, else 0); axes of weights
that contract (1); whatever is left (0). What could not get the degree it should have is kept and said so.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import sympy
import torch
from torch import nn

from sift_cli.widths.env import Frame
from sift_cli.widths.labels import INPUT
from sift_cli.widths.layout import Layout, Size, equal_parts
from sift_cli.widths.polynomial import Monomial, NotPolynomial, Polynomial, polynomial
from sift_cli.widths.trace import Trace, slots, trace


class Face(StrEnum):
    """Why a group scales or stays."""

    HIDDEN = "hidden"  # scales
    INPUT = "input"
    OUTPUT = "output"
    LITERAL = "literal"  # a number in the model's code fixes it
    TIED = "tied"  # it would have to scale together with a size that stays
    HEADS = "heads"  # a number of heads or groups, never a width
    FREE = "free"  # no contraction depends on it


class LayerRole(StrEnum):
    """What a weight does in its model, by its place in the graph and not by its name."""

    FIRST = "first"  # contracts the model's input
    LAST = "last"  # its result reaches the output, and no other contraction reads it
    DEPTHWISE = "depthwise"
    GROUPED = "grouped"
    EMBEDDING = "embedding"
    HIDDEN = "hidden"


@dataclass(frozen=True)
class Axis:
    """One axis of one parameter or buffer."""

    tensor: str
    axis: int


@dataclass(frozen=True)
class Attribute:
    """One integer attribute of one module ("" is the model itself), or one element of a tuple or list of integers.

    ``name`` is "config.hidden_size" for an attribute of the module's configuration.
    """

    module: str
    name: str
    element: int | None = None


@dataclass(frozen=True)
class WidthGroup:
    """Axes and attributes that are one number.

    Attributes:
        size: That number today.
        scales: True if it grows with the width factor.
        face: Why.
        axes, attributes: Where it occurs.
        frame: The line of the model that fixed it, for a LITERAL and for what is TIED.
        parts: Equal parts of the axis that each grow on their own, as the heads in (heads, size of a head); None where
            the model uses the axis in ways that contradict each other, as a shuffle of channels does.
    """

    size: int
    scales: bool
    face: Face
    axes: tuple[Axis, ...]
    attributes: tuple[Attribute, ...]
    frame: Frame | None = None
    parts: int | None = 1


@dataclass(frozen=True)
class WidthGraph:
    """All groups, the relations between those that scale, and every layer's role.

    Attributes:
        groups: In order of first occurrence in the model.
        relations: Linear equations ``sum(coefficient * new_size(group)) == 0`` over groups that scale (a concatenation
            gives one); each is a mapping from index in ``groups`` to coefficient, under :data:`CONSTANT` a number.
        roles: Weight name → role, for every convolution, linear weight and embedding that was used.
        attention: Weight name → its parts in attention, of "q", "k", "v" and "out".
        outputs: The axis of each layer's weight that is its output.
        not_understood: Sentences about what was met and could not be used.
    """

    groups: tuple[WidthGroup, ...]
    relations: tuple[dict[int, int], ...]
    roles: dict[str, LayerRole]
    not_understood: tuple[str, ...] = ()
    attention: dict[str, frozenset[str]] = field(default_factory=dict)
    outputs: frozenset[Axis] = frozenset()

    @property
    def literals(self) -> tuple[WidthGroup, ...]:
        """Groups that should scale and cannot: the model's code has their size, or one they are tied to, as a number.

        Of what no layer puts out (a one-hot code that a layer reads), nobody asks that it scales.
        """
        fixed = (group for group in self.groups if group.face in (Face.LITERAL, Face.TIED))
        return tuple(group for group in fixed if not self.outputs.isdisjoint(group.axes))


#: In place of an index, in relations: a size of 1.
CONSTANT = -1


class _Conflict(Exception):
    """Two terms of one equation would have different degrees."""


@dataclass
class _System:
    """Equations, the union-find over symbols that are equal, and the degrees decided so far."""

    sizes: dict[sympy.Symbol, int]
    equations: list[tuple[Polynomial, Frame]] = field(default_factory=list)
    parent: dict[sympy.Symbol, sympy.Symbol] = field(default_factory=dict)
    degree: dict[sympy.Symbol, int] = field(default_factory=dict)
    face: dict[sympy.Symbol, tuple[Face, Frame | None]] = field(default_factory=dict)
    quotients: dict[tuple[sympy.Expr, sympy.Expr], Polynomial] = field(default_factory=dict)
    asking: Frame = field(default_factory=lambda: Frame("", 0, ""))  # line of the model whose equation is being read
    _by_symbol: dict[sympy.Symbol, list[int]] = field(default_factory=lambda: defaultdict(list))
    _rank: dict[sympy.Symbol, int] = field(default_factory=dict)

    def find(self, symbol: sympy.Symbol) -> sympy.Symbol:
        while (up := self.parent.get(symbol, symbol)) is not symbol:
            symbol = up
        return symbol

    def at_present(self, poly: Polynomial) -> int:
        value = poly.substitute(self.sizes)
        return value.get((), 0)

    def quotient(self, numerator: sympy.Expr, denominator: sympy.Expr) -> Polynomial:
        """``numerator // denominator`` as a new size q with numerator == q · denominator, where that is exact."""
        key = (numerator, denominator)
        if key not in self.quotients:
            above, below = polynomial(numerator, self.quotient), polynomial(denominator, self.quotient)
            value, rest = divmod(self.at_present(above), self.at_present(below))
            if rest and set(below) == {()} and rest == below[()] - 1:
                # Rounded up, as a slice with a step is: (n + d − 1) // d is exact where n is a multiple of d.
                above, rest = above - Polynomial.constant(rest), 0
            if rest:
                raise NotPolynomial(f"{numerator} // {denominator} is not exact")
            if set(below) == {()} and all(coefficient % below[()] == 0 for coefficient in above.values()):
                self.quotients[key] = Polynomial({m: coefficient // below[()] for m, coefficient in above.items()})
            elif not value:  # sizes are positive; this is one less than a number of steps
                self.quotients[key] = Polynomial()
                self.equations.append((above, self.asking))
            else:
                symbol = sympy.Symbol(f"q{len(self.quotients)}", positive=True, integer=True)
                self.sizes[symbol] = value
                self.quotients[key] = Polynomial.of(symbol)
                self.equations.append((above - self.quotients[key] * below, self.asking))
        return self.quotients[key]

    def close(self) -> None:
        """Merge symbols that are equal, and keep the other equations once each."""
        self._rank = {symbol: rank for rank, symbol in enumerate(self.sizes)}
        pending = self.equations
        while True:
            merged = False
            kept: dict[frozenset[tuple[Monomial, int]], tuple[Polynomial, Frame]] = {}
            for poly, frame in pending:
                poly = poly.substitute({s: self.find(s) for s in poly.symbols()}).reduced()
                match sorted(poly.items(), key=lambda item: item[1]):
                    case []:
                        continue
                    case [((a,), -1), ((b,), 1)]:
                        first, second = sorted((a, b), key=self._rank.__getitem__)
                        self.parent[second] = first
                        merged = True
                    case _:
                        kept.setdefault(frozenset(poly.items()), (poly, frame))
            pending = list(kept.values())
            if not merged:
                break
        self.equations = pending
        for index, (poly, _) in enumerate(self.equations):
            for symbol in poly.symbols():
                self._by_symbol[symbol].append(index)

    def propagate(self, start: list[int], degree: dict[sympy.Symbol, int]) -> dict[sympy.Symbol, Frame]:
        """Extend ``degree`` by what the equations force; returns the symbols it fixed, with the line that did."""
        forced: dict[sympy.Symbol, Frame] = {}
        work = list(start)
        while work:
            poly, frame = self.equations[work.pop()]
            known: int | None = None
            open_terms: list[tuple[list[sympy.Symbol], int]] = []
            for monomial in self._scaling_terms(poly, degree):
                unknown = [s for s in monomial if s not in degree]
                partial = sum(degree[s] for s in monomial if s in degree)
                if unknown:
                    open_terms.append((unknown, partial))
                elif known is None:
                    known = partial
                elif known != partial:
                    raise _Conflict
            if known is None:
                continue
            for unknown, partial in open_terms:
                missing = known - partial
                if missing < 0 or (missing > len(unknown)):
                    raise _Conflict
                if missing == 0 or missing == len(unknown):
                    for symbol in unknown:
                        value = 1 if missing else 0
                        if degree.setdefault(symbol, value) != value:
                            raise _Conflict
                        forced[symbol] = frame
                        work += self._by_symbol[symbol]
        return forced

    def _scaling_terms(self, poly: Polynomial, degree: Mapping[sympy.Symbol, int]) -> list[Monomial]:
        """The terms whose degrees have to be equal.

        What stays may be added to what scales (the four gates of ``split(f(x), (c, c, 4))``), as long as what scales
        is on both sides of the equation.
        """
        stays = [m for m in poly if all(degree.get(symbol) == 0 for symbol in m)]
        scales = [m for m in poly if m not in stays]
        both_sides = len({poly[monomial] > 0 for monomial in scales}) == 2
        return scales if stays and both_sides else list(poly)

    def decide(self, symbol: sympy.Symbol, value: int, face: Face) -> bool:
        """Give ``symbol`` a degree, if the equations allow it."""
        symbol = self.find(symbol)
        if symbol in self.degree:
            return self.degree[symbol] == value
        trial = {**self.degree, symbol: value}
        try:
            forced = self.propagate(list(self._by_symbol[symbol]), trial)
        except _Conflict:
            return False
        self.degree = trial
        self.face[symbol] = (Face.HIDDEN if value else face, None)
        for other, frame in forced.items():
            self.face.setdefault(other, (Face.HIDDEN if trial[other] else face, frame))
        return True


def trace_widths(module: nn.Module, inputs: Any) -> WidthGraph:
    """Find the widths of ``module``. It is not changed; meta tensors do.

    Args:
        module: The model, in eval mode.
        inputs: Example inputs of the model's ``forward``, a tuple or by keyword, batch of one.

    Raises:
        UnsupportedOp: The forward pass cannot be followed on symbolic sizes.
    """
    traced = trace(module, inputs)
    not_understood: list[str] = []
    system = _System(dict(traced.sizes))
    for equation in traced.env.equations.values():
        system.asking = equation.frame
        try:
            left = polynomial(equation.left, system.quotient)
            right = polynomial(equation.right, system.quotient)
        except NotPolynomial as reason:
            not_understood.append(f"{equation.frame}: {reason}")
            continue
        system.equations.append((left - right, equation.frame))
    shapes: list[Any] = [size for output in traced.outputs for size in output.shape]
    outputs = _symbols(system, (size.node.expr for size in shapes if isinstance(size, torch.SymInt)))
    heads = _symbols(system, traced.heads)
    products = list(_products(system, traced.layouts))
    system.close()
    _decide_degrees(system, traced, module, outputs, heads)
    graph = _assemble(system, traced, _roles(traced, module), not_understood, _parts(system, products))
    return replace(graph, outputs=frozenset(_outputs(module, graph.roles)))


def _outputs(module: nn.Module, roles: Mapping[str, LayerRole]) -> Iterator[Axis]:
    for path, child in module.named_modules():
        name = f"{path}.weight" if path else "weight"
        if name in roles:
            yield Axis(name, output_axis(child))


def output_axis(layer: nn.Module) -> int:
    """Which axis of a layer's weight is its output; transformers' Conv1D is a linear layer with (in, out)."""
    second = isinstance(layer, nn.Embedding) or type(layer).__name__ == "Conv1D" or getattr(layer, "transposed", False)
    return 1 if second else 0


def _symbols(system: _System, sizes: Iterable[sympy.Expr]) -> list[sympy.Symbol]:
    """Every symbol that one of ``sizes`` depends on."""
    found: dict[sympy.Symbol, None] = {}
    for expr in dict.fromkeys(sizes):
        with contextlib.suppress(NotPolynomial):
            found |= dict.fromkeys(sorted(polynomial(expr, system.quotient).symbols(), key=str))
    return list(found)


def _products(system: _System, layouts: Iterable[Layout]) -> Iterator[tuple[Polynomial, tuple[Polynomial, ...]]]:
    for layout in layouts:
        with contextlib.suppress(NotPolynomial):
            yield (
                polynomial(layout.whole, system.quotient),
                tuple(polynomial(factor, system.quotient) for factor in layout.factors),
            )


def _parts(
    system: _System, products: Iterable[tuple[Polynomial, tuple[Polynomial, ...]]]
) -> dict[sympy.Symbol, int | None]:
    """Equal parts in which sizes grow, by symbol."""
    constants = {s: size for s, size in system.sizes.items() if system.degree.get(system.find(s)) != 1}
    values: dict[Size, int] = {}

    def size(poly: Polynomial) -> Size:
        """``poly`` with every symbol that stays as its number."""
        growing = {s: constants.get(system.find(s), system.find(s)) for s in poly.symbols()}
        key = frozenset(poly.substitute(growing).items())
        values.setdefault(key, system.at_present(poly))
        return key

    found: list[tuple[Size, int, Size]] = []
    for whole, factors in products:
        sizes = [size(factor) for factor in factors]
        scaled = [place for place, key in enumerate(sizes) if any(monomial for monomial, _ in key)]
        if len(scaled) == 1:
            outside = math.prod(values[key] for key in sizes[: scaled[0]])
            found.append((size(whole), outside, sizes[scaled[0]]))
    for poly, _ in system.equations:
        growing = poly.substitute({s: constants.get(system.find(s), system.find(s)) for s in poly.symbols()})
        match sorted(growing.items(), key=lambda item: abs(item[1])):
            case [((a,), 1 | -1 as sign), ((b,), other)] if other * sign < 0:  # a == n · b, and so is what a view made
                found.append((size(Polynomial.of(a)), 1, size(Polynomial({(b,): abs(other)}))))
    parts = equal_parts(found, values)
    return {symbol: parts.get(frozenset({((symbol,), 1)}), 1) for symbol in system.sizes}


#: Operators whose arguments are sizes, so that a constant there is a number in the model's code; in every other one it
#: is the size of an activation, which comes from the size of the input.
_TAKES_SIZES = ("view", "reshape", "expand", "slice", "split", "unflatten", "as_strided", "layer_norm", "group_norm")


def _is_literal(frame: Frame) -> bool:
    return frame.fixed or not frame.operator or any(name in frame.operator for name in _TAKES_SIZES)


def _decide_degrees(
    system: _System, traced: Trace, module: nn.Module, outputs: list[sympy.Symbol], heads: list[sympy.Symbol]
) -> None:
    # The input is decided first so that what it reaches is told apart from what a literal fixes.
    for symbol in traced.inputs:
        system.decide(symbol, 0, Face.INPUT)
    forced = system.propagate(list(range(len(system.equations))), system.degree)
    contracting = {site.weight for site in traced.sites if site.op != "embedding"}
    widths = {system.find(symbol) for (tensor, _), symbol in traced.axes.items() if tensor in contracting}
    numbers = {system.sizes[symbol] for symbol, frame in forced.items() if symbol in widths and _is_literal(frame)}
    for symbol, frame in forced.items():
        # What follows a literal meets it, times spatial sizes, as the size of an activation.
        literal = symbol in widths and any(system.sizes[symbol] % number == 0 for number in numbers)
        face = Face.HIDDEN if system.degree[symbol] else Face.LITERAL if literal else Face.INPUT
        system.face.setdefault(symbol, (face, frame))
    for symbol in outputs:
        system.decide(symbol, 0, Face.OUTPUT)
    for symbol in heads:
        system.decide(symbol, 0, Face.HEADS)
    modules = dict(module.named_modules())
    for key, symbol in traced.attributes.items():
        if key.name in ("groups", "num_groups"):
            weight = getattr(modules[key.module], "weight", None)
            depthwise = weight is not None and weight.dim() > 2 and weight.shape[1] == 1
            if not (depthwise and system.decide(symbol, 1, Face.HIDDEN)):
                system.decide(symbol, 0, Face.HEADS)
    for (tensor, _), symbol in traced.axes.items():
        if tensor in contracting and not system.decide(symbol, 1, Face.HIDDEN):
            system.decide(symbol, 0, Face.TIED)
    for symbol in system.sizes:
        if not system.decide(symbol, 0, Face.FREE):
            system.decide(symbol, 1, Face.FREE)


def _roles(traced: Trace, module: nn.Module) -> dict[str, LayerRole]:
    shapes = {slot.name: slot.tensor.shape for slot in slots(module)}
    roles: dict[str, LayerRole] = {}
    for site in traced.sites:
        if site.op == "embedding":
            roles.setdefault(site.weight, LayerRole.EMBEDDING)
            continue
        if INPUT in site.feeds_on:
            role = LayerRole.FIRST
        elif site.weight in traced.output_feeds_on - traced.labels.read_on:
            role = LayerRole.LAST
        elif site.groups > 1:
            role = LayerRole.DEPTHWISE if shapes[site.weight][1] == 1 else LayerRole.GROUPED
        else:
            role = LayerRole.HIDDEN
        roles[site.weight] = role
    return roles


def _assemble(
    system: _System,
    traced: Trace,
    roles: dict[str, LayerRole],
    not_understood: list[str],
    parts: dict[sympy.Symbol, int | None],
) -> WidthGraph:
    axes: dict[sympy.Symbol, list[Axis]] = defaultdict(list)
    attributes: dict[sympy.Symbol, list[Attribute]] = defaultdict(list)
    for (tensor, axis), symbol in traced.axes.items():
        axes[system.find(symbol)].append(Axis(tensor, axis))
    for key, symbol in traced.attributes.items():
        attributes[system.find(symbol)].append(Attribute(key.module, key.name, key.element))
    index: dict[sympy.Symbol, int] = {}
    groups: list[WidthGroup] = []
    for symbol in system.sizes:
        if system.find(symbol) is not symbol:
            continue
        face, frame = system.face.get(symbol, (Face.FREE, None))
        scales = system.degree.get(symbol, 0) == 1
        index[symbol] = len(groups)
        groups.append(
            WidthGroup(
                system.sizes[symbol],
                scales,
                face,
                tuple(axes[symbol]),
                tuple(attributes[symbol]),
                frame,
                parts[symbol] if scales else 1,
            )
        )
    constants = {s: size for s, size in system.sizes.items() if system.degree.get(system.find(s)) != 1}
    relations: list[dict[int, int]] = []
    for poly, frame in system.equations:
        linear = poly.substitute(constants)
        if not linear:
            continue
        if any(len(monomial) > 1 for monomial in linear):
            not_understood.append(f"{frame}: a product of widths")
            continue
        relations.append({index[m[0]] if m else CONSTANT: coefficient for m, coefficient in linear.items()})
    attention = {name: frozenset(parts) for name, parts in traced.labels.attention.items() if not name.startswith("<")}
    return WidthGraph(tuple(groups), tuple(relations), roles, tuple(not_understood), attention)
