"""First masks of a model that has none: which layers, how many weights, which ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from sift_cli.core.masks import Mask, MaskSet
from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import ModelError, PlanError, SiftError
from sift_cli.layers._dense import is_transposed
from sift_cli.surgery import PackedMask, attach_masks, carry, packed_masks_of
from sift_cli.training.distributed import local, whole
from sift_cli.training.names import plain_name
from sift_cli.training.weights import check_fits, check_free
from sift_cli.transforms import TransformOptions
from sift_cli.transforms._layers import check_globs
from sift_cli.transforms._masking import Choice, check, choose, site

_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """The masks of ``model`` are again what they were before the block, if it raises a SiftError."""
    before = packed_masks_of(model)
    try:
        yield
    except SiftError:
        attach_masks(model, MaskSet())
        carry(model, before)
        raise


@dataclass(frozen=True)
class Asked:
    """What :func:`sift_cli.sparsify` was asked for."""

    sparsity: str | float | Fraction
    distribution: str
    pattern: str
    mask: str
    only: tuple[str, ...]
    keep: tuple[str, ...]
    seed: int

    def options(self) -> TransformOptions:
        """As a transform has them.

        Raises:
            PlanError: They are none, or contradict each other.
        """
        sparsity = parse_sparsity(self.sparsity)
        if not sparsity or self.mask not in ("random", "topk"):
            given = "sparsity 0" if not sparsity else f"mask {self.mask!r}"
            raise PlanError(f"{given} makes no masks", hint="pass sparsity=0.9, and mask='random' or 'topk'")
        options = TransformOptions(
            sparsity, seed=self.seed, only=self.only, keep=self.keep, pattern=self.pattern,
            distribution=self.distribution, mask=cast(Literal["random", "topk"], self.mask),
        )  # fmt: skip
        check(options)
        return options


@dataclass(frozen=True)
class Start:
    """A mask to start from, and the share of the weights that is kept in the end."""

    mask: PackedMask
    density: float
    final: float


def draw(model: nn.Module, asked: Asked, masks: Mapping[str, PackedMask], *, gradual: bool) -> dict[str, Start]:
    """Masks for the weights of ``model``, by name.

    Args:
        model: The model.
        asked: How sparse, and where.
        masks: Masks that it has.
        gradual: Start from ``masks``, or from all weights, and let ``asked`` be the end.

    Raises:
        ModelError: It has masks already, or zeros that look like one.
        PlanError: The options do not fit the model.
        Infeasible: The layers cannot be that sparse.
    """
    if masks and not gradual:
        check_free(model, masks)
        raise ModelError("the model has masks already", hint="leave out sparsity=")
    options = asked.options()
    chosen = _choose(model, {name: name.rpartition(".")[0] for name in masks} or _layers(model, options), options)
    starts = {}
    for name, choice in chosen.items():
        gemm, parameter = choice.site.gemm, model.get_parameter(name)
        pattern, final = choice.pattern.name, choice.nonzero / gemm.numel
        if gradual:
            if choice.pattern.density is not None:
                raise PlanError(
                    f"pruning cannot lead to {pattern} step by step", hint="use a block pattern, or unstructured"
                )
            kept = masks[name].kept() if name in masks else torch.ones(gemm.shape, dtype=torch.bool)
            mask = Mask.from_bool(kept.cpu().numpy())
            if mask.nonzero < choice.nonzero:
                raise PlanError(f"{name} is sparser already than pruning would make it", hint="pass a higher sparsity=")
        elif asked.mask == "topk":
            values = whole(local(parameter), parameter).double().cpu().numpy()
            mask = choice.pattern.select(gemm, values, choice.nonzero)
        else:
            mask = choice.pattern.draw(gemm, choice.nonzero, seed=asked.seed, name=plain_name(model, name))
        starts[name] = Start(PackedMask.of(mask, pattern, gemm.output_axis).to(parameter.device), mask.density, final)
        check_fits(name, parameter, torch.from_numpy(mask.to_bool()))
    return starts


def _choose(model: nn.Module, layers: Mapping[str, str], options: TransformOptions) -> dict[str, Choice]:
    """Kept weights of each tensor; ``layers`` has its layer. The budget is one of weights: each counts once."""
    sites = {}
    for name, layer in layers.items():
        numel = model.get_parameter(name).numel()
        sites[plain_name(model, layer)] = site(model, name, positions=1, before=numel)
    budget = round((1 - options.sparsity) * sum(found.before for found in sites.values()))
    return {choice.site.weight: choice for choice in choose(sites, budget, options, transform="sparsify").values()}


def _layers(model: nn.Module, options: TransformOptions) -> dict[str, str]:
    """Name of each weight that becomes sparse → its layer.

    Raises:
        PlanError: A glob matches no layer, or no layer is left.
    """
    found = list(_matrices(model))
    looked_up = {name for name, _, child in found if isinstance(child, nn.Embedding | nn.EmbeddingBag)}
    ends = {name for name, _, _ in (*found[:1], *found[-1:])}
    candidates = {name: (layer, child) for name, layer, child in found if name not in looked_up}
    check_globs(options, [plain_name(model, layer) for layer, _ in candidates.values()])
    layers = {}
    for name, (layer, child) in candidates.items():
        depthwise = isinstance(child, _ConvNd) and 1 < child.groups == child.in_channels
        usual = name not in ends and not depthwise and model.get_parameter(name).requires_grad
        selected = options.selects(plain_name(model, layer))
        if usual if selected is None else selected:
            layers[name] = layer
    if not layers:
        raise PlanError("no layer is left to be sparse", hint="name some with only=")
    return layers


def _matrices(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """(first name of the weight, layer, its module) of everything that multiplies with a matrix or looks rows of one
    up, in order of registration. A weight that several layers share comes several times."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    for path, child in model.named_modules():
        known = isinstance(child, nn.Linear | _ConvNd | nn.Embedding | nn.EmbeddingBag) or is_transposed(child)
        for key in ("weight",) if known else _ATTENTION if isinstance(child, nn.MultiheadAttention) else ():
            if (weight := child._parameters.get(key)) is not None:
                yield first[id(weight)], path if known else f"{path}.{key}", child
