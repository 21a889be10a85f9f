"""What a user can ask of any transform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any, Generic, Literal, TypeVar

from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import PlanError
from sift_cli.sparsity import distributions
from sift_cli.sparsity.patterns import Pattern
from sift_cli.sparsity.patterns import parse as parse_pattern

#: Options that every transform has; it names the others that it understands in its ``OPTIONS``.
COMMON = frozenset({"sparsity", "match", "init", "seed", "only", "keep"})


Value = TypeVar("Value")


@dataclass(frozen=True)
class Override(Generic[Value]):
    """``GLOB=VALUE``: a value for the layers that a glob matches."""

    text: str
    glob: str
    value: Value

    def matches(self, layer: str) -> bool:
        return fnmatchcase(layer, self.glob)


def _override(text: str, read: Callable[[str], Value]) -> Override[Value]:
    glob, equals, value = text.rpartition("=")
    if not (glob and equals):
        raise PlanError(f"{text!r} is not GLOB=VALUE", hint="write it as 'layer1.*=0.5'")
    return Override(text, glob, read(value))


def _read_width(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) < 2**31):
        raise PlanError(f"{text!r} is not a width", hint="write it as 'transformer.h.*.mlp.c_fc=4344'")
    return int(text)


@dataclass(frozen=True)
class TransformOptions:
    """Options of a transform.

    Attributes:
        sparsity: Nominal sparsity s in [0, 1), exact. It sets the width; the masks' sparsity is solved for.
        match: "model" keeps the model's total MACs, "layer" keeps every sparse layer's nonzeros. None is "layer" for
            models of tokens, whose vocabulary and attention grow with the width, and "model" for others, as the paper.
        init: "scratch" draws new weights, "preserve" keeps the function of the given ones.
        seed: Seed of masks and weights.
        multiple: Round widths to a multiple of this; None truncates, as the paper does.
        only: Globs over layer names; when given, only these layers become sparse.
        keep: Globs over layer names; these layers stay dense.
        nonlinearity: What follows each branch of a layer that is put in the place of another: "none", "act" (an
            activation), "norm" (a BatchNorm), "norm-act" (both); None leaves it to the layer's kind, as the paper.
        compat: "released" counts as the official code does and not as the paper says.
        snap: Take the nearest sparsity at which the transform exists instead of refusing.
        width: Width factor of a dense baseline; None takes the one that belongs to the sparsity.
        layer_width: ``GLOB=WIDTH`` for layers whose output width is decided by hand; the first that matches counts.
        allow_partial: Leave the widths as they are that the model's code has as a number, instead of refusing.
        allow_approximate: Let ``init="preserve"`` start from nearly the function of the given weights where it cannot
            be exact, and measure the error.
        pattern: Where kept weights may lie, see :mod:`sift_cli.sparsity.patterns`.
        layer_pattern: ``GLOB=PATTERN`` for layers that have another; the first that matches counts.
        distribution: How dense layers are relative to each other, see :mod:`sift_cli.sparsity.distributions`.
        layer_sparsity: ``GLOB=SPARSITY`` for layers that have their own; the first that matches counts, and the other
            layers take up what the budget then leaves. A layer of n weights keeps ⌊(1 − sparsity) · n⌋.
        mask: "random"; "topk", the largest weights as they are after the transform's initialisation; or "file", masks
            that :func:`sift_cli.api.plan` is given.
    """

    sparsity: Fraction
    match: Literal["model", "layer"] | None = None
    init: Literal["scratch", "preserve"] = "scratch"
    seed: int = 0
    multiple: int | None = None
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    nonlinearity: Literal["none", "act", "norm", "norm-act"] | None = None
    compat: Literal["released"] | None = None
    snap: bool = False
    width: Fraction | None = None
    layer_width: tuple[str, ...] = ()
    allow_partial: bool = False
    allow_approximate: bool = False
    pattern: str = "unstructured"
    layer_pattern: tuple[str, ...] = ()
    distribution: str = "uniform"
    layer_sparsity: tuple[str, ...] = ()
    mask: Literal["random", "topk", "file"] = "random"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise PlanError(f"sparsity {self.sparsity} is outside [0, 1)")
        if self.match not in (None, "model", "layer"):
            raise PlanError(f"match must be 'model' or 'layer', not {self.match!r}")
        if self.init not in ("scratch", "preserve"):
            raise PlanError(f"init must be 'scratch' or 'preserve', not {self.init!r}")
        if self.multiple is not None and not 1 <= self.multiple <= 4096:
            raise PlanError(f"multiple {self.multiple} is outside 1 … 4096")
        if not 0 <= self.seed < 2**63:
            raise PlanError(f"seed {self.seed} is outside 0 … 2**63 − 1")
        if self.nonlinearity not in (None, "none", "act", "norm", "norm-act"):
            raise PlanError(f"nonlinearity must be 'none', 'act', 'norm' or 'norm-act', not {self.nonlinearity!r}")
        if self.compat not in (None, "released"):
            raise PlanError(f"compat must be 'released', not {self.compat!r}")
        if self.width is not None and not 1 <= self.width <= 64:
            raise PlanError(f"width {self.width} is outside 1 … 64")
        if self.mask not in ("random", "topk", "file"):
            raise PlanError(f"mask must be 'random', 'topk' or 'file', not {self.mask!r}")
        parse_pattern(self.pattern)
        distributions.share(self.distribution, (1, 1))
        _ = self.sparsities, self.patterns, self.widths

    @property
    def sparsities(self) -> tuple[Override[Fraction], ...]:
        """``layer_sparsity``, read."""
        return tuple(_override(text, parse_sparsity) for text in self.layer_sparsity)

    @property
    def patterns(self) -> tuple[Override[Pattern], ...]:
        """``layer_pattern``, read."""
        return tuple(_override(text, parse_pattern) for text in self.layer_pattern)

    @property
    def widths(self) -> tuple[Override[int], ...]:
        """``layer_width``, read."""
        return tuple(_override(text, _read_width) for text in self.layer_width)

    def selects(self, layer: str) -> bool | None:
        """True or False where the globs decide about ``layer``, None where they say nothing."""
        if any(fnmatchcase(layer, glob) for glob in self.keep):
            return False
        if self.only:
            return any(fnmatchcase(layer, glob) for glob in self.only)
        return None

    @property
    def given(self) -> frozenset[str]:
        """Names of the options that are not at their default."""
        return frozenset(
            spec.name for spec in fields(self) if spec.name == "sparsity" or getattr(self, spec.name) != spec.default
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values; sparsity has its own place in the plan."""
        return {spec.name: _json(getattr(self, spec.name)) for spec in fields(self) if spec.name != "sparsity"}


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Fraction) else value
