"""From a width factor to integers.

Two ways. *Uniform*: with g the greatest common divisor of all sizes that scale, every size is multiplied by K/g for
one integer K ≈ k·g. All ratios stay exact, so every relation holds by itself; for a ResNet g = 64 and K is the
paper's ``int(64·√(1/(1−s)))``: 90, 128, 202. *Free*: where g is small (MobileNetV2: 8) or a multiple is asked for,
sizes that no relation ties are rounded one by one, equal sizes to equal sizes, and the others follow from the
relations.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from fractions import Fraction

from sift_cli.errors import Infeasible
from sift_cli.widths.graph import CONSTANT, WidthGraph

#: Below this divisor a single ratio is too coarse: with g = 2, k = 3.16 would become 3.
MINIMUM_DIVISOR = 16


def solve_widths(
    graph: WidthGraph,
    factor_squared: Fraction,
    *,
    multiple: int | None = None,
    given: Mapping[int, int] | None = None,
    down: bool = False,
) -> dict[int, int]:
    """New size of every group that scales, by its index in ``graph.groups``.

    A model without attention rounds down, as the paper's ``int(64 · k)``; one with attention to the nearest, so that
    GPT-2's heads of 64 become 91 and its width 12 · 91 = 1092, as in the paper's Table 14.

    Args:
        graph: The model's widths.
        factor_squared: k², exact; 1/(1−s) for Sparse Wide.
        multiple: Make widths that no relation ties a multiple of this, rounded to the nearest.
        given: Sizes that are decided already, by index.
        down: Round down with attention, too: masks of a fixed density then never cost more than the dense layer.

    Raises:
        Infeasible: The relations have no integer solution near the factor, or none with the sizes given.
    """
    given = given or {}
    scaling = {index: group.size for index, group in enumerate(graph.groups) if group.scales}
    divisor = math.gcd(*(size for index, size in scaling.items() if index not in given)) if scaling else 0
    nearest = bool(graph.attention) and not down
    tied = any(index in given for relation in graph.relations for index in relation)
    plus = any(CONSTANT in relation for relation in graph.relations)
    if multiple is None and divisor >= MINIMUM_DIVISOR and not tied and not plus:
        ratio = _rounded(divisor, factor_squared, None, nearest)
        sizes = {index: given.get(index, size // divisor * ratio) for index, size in scaling.items()}
    else:
        expressed = _eliminate(graph, scaling, given)
        steps = _steps(expressed, multiple)
        sizes = {
            index: given.get(index) or _rounded(size, factor_squared, steps.get(index, multiple), nearest)
            for index, size in scaling.items()
            if index not in expressed
        }
        for index, terms in expressed.items():
            value = sum((c * (1 if other == CONSTANT else sizes[other]) for other, c in terms.items()), Fraction(0))
            if value.denominator != 1 or value < min(scaling[index], given.get(index, value)):
                raise Infeasible("wide", _where(graph, index), "a whole number of channels", f"{value}",
                                 hint="try another --multiple")  # fmt: skip
            sizes[index] = int(value)
    for relation in graph.relations:
        members = relation.keys() - {CONSTANT}
        if sum(relation[index] * sizes[index] for index in members) + relation.get(CONSTANT, 0):
            index = next((index for index in sorted(members) if index in given), min(members))
            others = " and ".join(f"{sizes[one]} of {_where(graph, one)}" for one in sorted(members - {index}))
            raise Infeasible("wide", _where(graph, index), f"a width that fits {others}", str(sizes[index]),
                             hint="leave this --layer-width out")  # fmt: skip
    return sizes


def _steps(expressed: Mapping[int, Mapping[int, Fraction]], multiple: int | None) -> dict[int, int]:
    """What a group has to be a multiple of, so that those that are fractions of it are whole."""
    steps: dict[int, int] = {}
    for terms in expressed.values():
        for index, factor in terms.items():
            if factor.denominator > 1:
                steps[index] = math.lcm(steps.get(index, multiple or 1), factor.denominator)
    return steps


def _where(graph: WidthGraph, index: int) -> str:
    axes, attributes = graph.groups[index].axes, graph.groups[index].attributes
    return axes[0].tensor if axes else f"{attributes[0].module}.{attributes[0].name}" if attributes else "a size"


def _rounded(size: int, squared: Fraction, multiple: int | None, nearest: bool) -> int:
    """A width that no relation ties; never smaller than it was."""
    if multiple is None:
        return nearest_multiple(size, squared, 1) if nearest else floor_times_sqrt(size, squared)
    return max(nearest_multiple(size, squared, multiple), -(-size // multiple) * multiple)


def floor_times_sqrt(size: int, squared: Fraction) -> int:
    """``floor(size · √squared)``, exact."""
    return math.isqrt(size * size * squared.numerator // squared.denominator)


def nearest_multiple(size: int, squared: Fraction, multiple: int) -> int:
    """The multiple of ``multiple`` nearest to ``size · √squared``, exact; halves go up."""
    twice = Fraction(4 * size * size, multiple * multiple) * squared  # (2 · size · √squared / multiple)²
    return (math.isqrt(twice.numerator // twice.denominator) + 1) // 2 * multiple


def _eliminate(
    graph: WidthGraph, scaling: Mapping[int, int], given: Collection[int] = ()
) -> dict[int, dict[int, Fraction]]:
    """Solve the relations for some groups in terms of the others (Gauss over fractions).

    The group solved for is the largest one whose coefficient divides the rest, so that the others may be any integers.
    """
    expressed: dict[int, dict[int, Fraction]] = {}
    for relation in sorted(graph.relations, key=len):
        terms: dict[int, Fraction] = {}
        for index, coefficient in relation.items():
            for other, factor in expressed.get(index, {index: Fraction(1)}).items():
                terms[other] = terms.get(other, Fraction(0)) + coefficient * factor
        terms = {index: coefficient for index, coefficient in terms.items() if coefficient}
        if not terms:
            continue
        open_terms = {i: c for i, c in terms.items() if i not in given and i != CONSTANT}
        if not open_terms:
            continue  # all of it is given; whether it holds is checked in the end
        whole = [i for i, c in open_terms.items() if all((other / c).denominator == 1 for other in terms.values())]
        solved = max(whole or list(open_terms), key=lambda index: scaling[index])
        divisor = -terms.pop(solved)
        solution = {index: coefficient / divisor for index, coefficient in terms.items()}
        for earlier in expressed.values():
            if solved in earlier:
                factor = earlier.pop(solved)
                for index, share in solution.items():
                    earlier[index] = earlier.get(index, Fraction(0)) + factor * share
        expressed[solved] = solution
    return expressed
