"""From the groups of a configuration to the weights of a model, and their first masks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from sift_cli.core.masks import Mask
from sift_cli.errors import ModelError, PlanError
from sift_cli.sparsity.draw import lowest, random_keys
from sift_cli.sparsity.patterns import Gemm
from sift_cli.surgery import PackedMask, packed_masks_of
from sift_cli.training.config.groups import Group
from sift_cli.training.distributed import local, whole
from sift_cli.training.names import plain_name, plain_names
from sift_cli.training.weights import check_fits, check_free
from sift_cli.transforms._masking import site


def choose(model: nn.Module, groups: Iterable[Group]) -> dict[str, Group]:
    """Name of each weight that becomes sparse → its group, the first that has it.

    Weights are the trained parameters with two axes or more. Where a group does not name its weights, those that an
    ``nn.Embedding`` looks up are left out too, whatever they are called.

    Raises:
        PlanError: A group has no weight, or no group makes one sparse.
    """
    plain = plain_names(model)
    embedded = {id(child.weight) for child in model.modules() if isinstance(child, nn.Embedding | nn.EmbeddingBag)}
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1 and p.requires_grad}
    chosen: dict[str, Group] = {}
    for group in groups:
        found = [
            name
            for name, parameter in weights.items()
            if name not in chosen
            and group.names.select(plain[name])
            and (group.names.patterns is not None or id(parameter) not in embedded)
        ]
        if not found:
            raise PlanError(
                f"{group.at} is for no weight of this model, or only for such that a group before it has",
                hint=f"a weight is called {plain[next(iter(weights))]}, for example" if weights else None,
            )
        chosen |= dict.fromkeys(found, group)
    sparse = {name: group for name, group in chosen.items() if not group.dense}
    if not sparse:
        raise PlanError("the configuration makes no weight sparse")
    return sparse


def first_masks(model: nn.Module, chosen: dict[str, Group], seed: int) -> dict[str, PackedMask]:
    """The masks that training begins with, by name of the weight, without those that the model has already.

    Args:
        model: The model.
        chosen: The group of each weight.
        seed: Seed of those groups that have none of their own.

    Raises:
        ModelError: The model has masks, and a group would draw others or none at all.
        PlanError: A weight would keep nothing, or cannot be grouped as it is asked for.
    """
    there = packed_masks_of(model)
    check_free(model, there)
    for name in there:
        if name not in chosen:
            raise ModelError(f"{plain_name(model, name)} has a mask, and the configuration leaves it dense")
        if chosen[name].start != "from_zeros":
            raise ModelError(
                "the model has masks already",
                hint=f"init_method: from_zeros keeps them; {chosen[name].at} has {chosen[name].start}",
            )
    masks = {}
    for name, group in chosen.items():
        if name in there:
            continue
        parameter = model.get_parameter(name)
        kept = _kept(plain_name(model, name), site(model, name, positions=1, before=0).gemm, parameter, group, seed)
        masks[name] = PackedMask.of(Mask.from_bool(kept)).to(parameter.device)
        check_fits(name, parameter, torch.from_numpy(kept))
    return masks


def _kept(name: str, gemm: Gemm, parameter: nn.Parameter, group: Group, seed: int) -> np.ndarray:
    """The first mask of one weight, a bool array of its shape."""
    if group.start == "from_zeros":
        return _values(parameter) != 0
    if group.sparsity is None or not group.starts_sparse:
        return np.ones(gemm.shape, np.bool_)
    sparsity = Fraction(repr(group.sparsity(0)))
    if group.start == "checkerboard":
        kept = _checkerboard(gemm, 1 - sparsity)
    else:
        seed = seed if group.seed is None else group.seed
        costs = (
            random_keys(gemm.shape, seed=seed, name=name) if group.start == "random" else -np.abs(_values(parameter))
        )
        kept = _balanced(name, gemm, costs, 1 - sparsity, group)
    if not kept.any():
        raise PlanError(f"at sparsity {float(sparsity):g} {name} keeps none of its {gemm.numel} weights")
    return kept


def _values(parameter: nn.Parameter) -> np.ndarray:
    values: np.ndarray = whole(local(parameter), parameter).double().cpu().numpy()
    return values


def _balanced(name: str, gemm: Gemm, costs: np.ndarray, density: Fraction, group: Group) -> np.ndarray:
    """``density`` of the weights, by lowest cost: in all, or in each of several groups of neighbours."""
    side, groups = group.balance or ("out", 1)
    if group.start == "balanced-topk":
        side, groups = "in", gemm.columns
    if groups == 1:
        return lowest(costs, round(density * gemm.numel))
    axis = gemm.columns if side == "in" else gemm.rows
    if len(gemm.shape) != 2 or axis % groups:
        raise PlanError(
            f"{group.at} asks for {groups} groups of {side}puts, and {name} is of shape {gemm.shape}",
            hint="groups are for matrices, and divide their inputs or outputs",
        )
    matrix = gemm.matrix(costs) if side == "out" else gemm.matrix(costs).T
    each = matrix.size // groups
    kept = np.stack([lowest(one, round(density * each)) for one in matrix.reshape(groups, each)]).reshape(matrix.shape)
    return gemm.tensor(kept if side == "out" else kept.T)


def _checkerboard(gemm: Gemm, density: Fraction) -> np.ndarray:
    """Weights far from each other: where ⌊x · density⌋ changes, and each row begins ⌈1 / density⌉ − 1 further on."""
    if not density:
        return np.zeros(gemm.shape, np.bool_)
    rows, columns = np.arange(gemm.rows)[:, None], np.arange(gemm.columns)
    place = columns + rows * (math.ceil(1 / density) - 1)
    part, of = density.numerator, density.denominator
    return gemm.tensor((place + 1) * part // of != place * part // of)
