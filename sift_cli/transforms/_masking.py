"""From a budget to masks: how many weights each sparse layer keeps, where they may lie, and how they are chosen.

A layer whose sparsity the user gave (``layer_sparsity``), and a layer under a pattern that allows one count only
(N:M), has its number of weights; the other layers share what the budget leaves, in the proportions of the
distribution and in steps that their pattern allows. No layer ever gets more than it asked for, so no total does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from torch import nn

from sift_cli.core.plan import AttachMask
from sift_cli.errors import Infeasible, PlanError
from sift_cli.layers._dense import is_transposed
from sift_cli.sparsity import distributions
from sift_cli.sparsity.patterns import Gemm, Pattern, parse
from sift_cli.transforms._budget import Cost, spend
from sift_cli.transforms._options import TransformOptions

#: Options that a transform has by deciding its masks here.
OPTIONS = frozenset({"pattern", "layer_pattern", "distribution", "layer_sparsity", "mask"})
UNSTRUCTURED = parse("unstructured")


@dataclass(frozen=True)
class Site:
    """A layer that becomes sparse.

    Attributes:
        weight: Name of its weight.
        gemm: The weight as it will be.
        grouped: It is a convolution with groups, so not one matrix product but several.
        positions: MACs that one weight costs.
        before: Weights of the dense layer: what it may keep under ``match="layer"``.
        own: It keeps as many weights as before whatever the budget, by a rule of the transform.
    """

    weight: str
    gemm: Gemm
    grouped: bool
    positions: int
    before: int
    own: bool = False


@dataclass(frozen=True)
class Choice:
    """What was decided for one layer.

    Attributes:
        site: The layer.
        nonzero: Weights it keeps.
        pattern: Where they may lie.
        given: Whether the user gave the layer's sparsity.
    """

    site: Site
    nonzero: int
    pattern: Pattern
    given: bool = False

    @property
    def sparse(self) -> bool:
        """Whether there is anything to mask."""
        return self.nonzero < self.site.gemm.numel


def site(module: nn.Module, weight: str, *, positions: int, before: int, own: bool = False) -> Site:
    """The layer that ``weight`` belongs to, of a module as it will be, on any device."""
    owner = module.get_submodule(weight.rpartition(".")[0])
    transposed = is_transposed(owner) or getattr(owner, "transposed", False)
    gemm = Gemm(tuple(module.get_parameter(weight).shape), int(transposed))
    return Site(weight, gemm, getattr(owner, "groups", 1) > 1, positions, before, own)


def choose(
    sites: Mapping[str, Site], budget: int | None, options: TransformOptions, *, transform: str
) -> dict[str, Choice]:
    """How many weights each layer keeps.

    Args:
        sites: The layers by name.
        budget: MACs for all of them together; None lets each keep at most the weights that it had.
        options: :data:`OPTIONS` are looked at, after :func:`check`.
        transform: Name of the transform, for errors.

    Raises:
        PlanError: The options contradict each other, or name layers that are not there.
        Infeasible: The budget does not pay for what the options fix.
    """
    _check_globs(sites, options)
    if options.init == "preserve":
        # Only the original weights, all of them, compute the original function.
        return {name: Choice(found, found.before, UNSTRUCTURED) for name, found in sites.items()}
    placed = {name: (found, _pattern(name, found, options)) for name, found in sites.items()}
    choices = {
        name: Choice(found, count, pattern, given=_given(name, options) is not None)
        for name, (found, pattern) in placed.items()
        if (count := _fixed(name, found, pattern, options)) is not None
    }
    rest = {name: pair for name, pair in placed.items() if name not in choices}
    if budget is None and options.distribution != "uniform":
        raise PlanError(
            f"the distribution {options.distribution} moves weights between layers, and --match layer forbids that",
            hint="use --match model",
        )
    if budget is None:
        choices |= _at_most_before(rest, transform)
        _hold_each(choices, transform)
    else:
        spent = sum(choice.site.positions * choice.nonzero for choice in choices.values())
        if spent > budget and not rest:
            raise Infeasible(
                transform,
                "the model",
                f"{spent:,} MACs for the layers whose number of weights is fixed",
                f"{budget:,} left by the layers that stay dense",
                hint="use --match layer, or let layers without a pattern take it up: --layer-pattern GLOB=unstructured",
            )
        if rest:
            choices |= _share(budget - spent, rest, options, transform)
    return {name: choices[name] for name in sites}


def attach(choice: Choice, options: TransformOptions) -> AttachMask:
    """The edit that gives a layer its mask."""
    rule: Literal["block", "random", "topk", "file"] = "block" if options.init == "preserve" else options.mask
    axis = choice.site.gemm.output_axis if choice.pattern.name != UNSTRUCTURED.name else 0
    seed = options.seed if rule == "random" else 0
    return AttachMask(choice.site.weight, choice.nonzero, rule, seed, pattern=choice.pattern.name, output_axis=axis)


def notes(choices: Mapping[str, Choice], options: TransformOptions) -> Iterator[str]:
    """Sentences for the user about patterns."""
    outside = [name for name, choice in choices.items() if choice.pattern.name != _wanted(name, options).name]
    if outside:
        yield f"unstructured, as they have groups or are too small for their pattern: {', '.join(outside)}"
    if any(choice.pattern.density == Fraction(1, 8) for choice in choices.values()):
        yield (
            "the paper's Table 11 has 1:8 at width 3.16 = √10, which costs 1.25 times the dense model; "
            "at the same cost the width is √8 = 2.83"
        )


def check(options: TransformOptions) -> None:
    """Refuse options about masks that contradict the others.

    Raises:
        PlanError: They do.
    """
    asked = options.given & OPTIONS
    if asked and not options.sparsity:
        raise PlanError(f"at sparsity 0 there are no masks, so there is nothing for {', '.join(sorted(asked))} to do")
    if options.init == "preserve" and asked:
        raise PlanError(
            f"--init preserve keeps the original weights, which leaves no choice to {', '.join(sorted(asked))}",
            hint="use --init scratch",
        )
    pattern = parse(options.pattern)
    if pattern.density is not None and pattern.density != 1 - options.sparsity:
        raise PlanError(
            f"the pattern {pattern.name} keeps {pattern.density} of the weights, and the sparsity is "
            f"{options.sparsity}",
            hint=f"--sparsity {1 - pattern.density}",
        )


def _check_globs(sites: Mapping[str, Site], options: TransformOptions) -> None:
    for option, globs in (("layer_sparsity", options.sparsities), ("layer_pattern", options.patterns)):
        for glob in globs:
            if not any(glob.matches(name) for name in sites):
                raise PlanError(
                    f"{option} names {glob.text!r}, and no sparse layer matches it",
                    hint=f"sparse layers look like {next(iter(sites), '')!r}",
                )


def _wanted(name: str, options: TransformOptions) -> Pattern:
    return next((glob.value for glob in options.patterns if glob.matches(name)), parse(options.pattern))


def _pattern(name: str, found: Site, options: TransformOptions) -> Pattern:
    """The pattern of a layer: the one asked for where the layer is one matrix product and large enough for it."""
    wanted = _wanted(name, options)
    return wanted if not found.grouped and wanted.feasible(found.gemm) else UNSTRUCTURED


def _given(name: str, options: TransformOptions) -> Fraction | None:
    return next((glob.value for glob in options.sparsities if glob.matches(name)), None)


def _fixed(name: str, found: Site, pattern: Pattern, options: TransformOptions) -> int | None:
    """The number of weights where nothing is left to solve for."""
    feasible, given = pattern.feasible(found.gemm), _given(name, options)
    if given is None and found.own:
        return found.before
    if given is None:
        return feasible[0] if len(feasible) == 1 else None
    if pattern.density is not None:
        raise PlanError(
            f"layer_sparsity gives {name} a sparsity, and its pattern {pattern.name} has one",
            hint=f"--layer-pattern '{name}=unstructured'",
        )
    # Rounded down to whole weights, so that the layer is never denser than asked for.
    wanted = math.floor((1 - given) * found.gemm.numel)
    count = _largest(feasible, wanted)
    if not count:
        raise PlanError(
            f"at sparsity {given} {name} keeps {wanted} of its {found.gemm.numel} weights, too few for a mask",
            hint=f"--layer-sparsity '{name}=…' with a lower one",
        )
    return count


def _largest(feasible: range, at_most: int) -> int:
    """The largest count of ``feasible`` that is not above ``at_most``; 0 where there is none."""
    if at_most < feasible.start:
        return 0
    return feasible[min(len(feasible) - 1, (at_most - feasible.start) // feasible.step)]


def _at_most_before(rest: Mapping[str, tuple[Site, Pattern]], transform: str) -> dict[str, Choice]:
    choices = {}
    for name, (found, pattern) in rest.items():
        feasible = pattern.feasible(found.gemm)
        count = _largest(feasible, found.before)
        if not count:
            raise Infeasible(
                transform, name, f"{feasible.start:,} weights for {pattern.name}", f"{found.before:,}",
                hint=f"--layer-pattern '{name}=unstructured'",
            )  # fmt: skip
        choices[name] = Choice(found, count, pattern)
    return choices


def _hold_each(choices: Mapping[str, Choice], transform: str) -> None:
    for name, choice in choices.items():
        if choice.nonzero > choice.site.before:
            raise Infeasible(
                transform,
                name,
                f"{choice.nonzero:,} weights at its width and sparsity",
                f"{choice.site.before:,}, which is what it had",
                hint=f"give it a higher --layer-sparsity '{name}=…'"
                if choice.given
                else f"its width was rounded up: leave out --multiple, or pass --layer-pattern '{name}=unstructured'",
            )


def _share(
    budget: int, rest: Mapping[str, tuple[Site, Pattern]], options: TransformOptions, transform: str
) -> dict[str, Choice]:
    """Spend ``budget`` on the layers of ``rest``, in weights or in blocks of them."""
    steps = {name: pattern.feasible(found.gemm) for name, (found, pattern) in rest.items()}
    costs = {
        name: Cost(
            len(steps[name]) - 1,
            found.positions * steps[name].step,
            distributions.share(options.distribution, found.gemm.outputs_first),
        )
        for name, (found, _) in rest.items()
    }
    left = budget - sum(steps[name].start * found.positions for name, (found, _) in rest.items())
    spent = spend(left, costs, transform=transform)
    return {name: Choice(found, steps[name][spent[name]], pattern) for name, (found, pattern) in rest.items()}
