"""The state of torch's optimizers when masks are dropped: momenta of weights that come back are 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from sift_cli.checkpoint.dense import DenseView
from sift_cli.errors import Malformed, ModelError

_MAX_DEPTH = 4


def found(root: Any, depth: int = _MAX_DEPTH) -> Iterator[dict[str, Any]]:
    """Every ``Optimizer.state_dict()`` in a checkpoint, whatever it is called there."""
    if isinstance(root, dict) and _is_state_dict(root):
        yield root
    elif depth and isinstance(root, dict | list):
        for value in root.values() if isinstance(root, dict) else root:
            yield from found(value, depth - 1)


def _is_state_dict(value: Mapping[str, Any]) -> bool:
    state, groups = value.get("state"), value.get("param_groups")
    if not isinstance(state, dict) or not all(isinstance(entry, dict) for entry in state.values()):
        return False
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return False
    listed = [(group.get("params"), group.get("param_names", group.get("params"))) for group in groups]
    return all(
        isinstance(keys, list)
        and isinstance(names, list)
        and len(keys) == len(names)
        and all(isinstance(key, int | str) for key in (*keys, *names))
        for keys, names in listed
    )


def carry(optimizer: dict[str, Any], view: DenseView) -> None:
    """Set the state of an optimizer to 0, in place, wherever the masks of ``view`` do not keep a weight.

    That goes for every tensor of the state that has its weight's shape. Where pruned weights are NaN, so is their
    state, and that becomes 0.

    Raises:
        ModelError: It is not clear which state belongs to which weight.
        Malformed: A state has NaN or infinities of its own.
    """
    state = optimizer["state"]
    if "nan" in view.sidebands:
        for key, entry in state.items():
            state[key] = {name: _without_nan(value, f"{key}.{name}", view) for name, value in entry.items()}
        return
    for key, name in _names(optimizer, view).items():
        _, kept = view.masked[name].read()
        pruned = torch.from_numpy(~kept)
        state[key] = {
            what: value.masked_fill(pruned, 0) if _shape(value) == kept.shape else value
            for what, value in state[key].items()
        }
    renamed = {weight.values: name for name, weight in view.masked.items()}
    for group in optimizer["param_groups"]:
        if "param_names" in group:
            group["param_names"] = [renamed.get(name, name) for name in group["param_names"]]


def _without_nan(value: Any, name: str, view: DenseView) -> Any:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    nan = value.isnan()
    if value.isinf().any() or (nan.any() and (value.ndim < 2 or nan.all())):
        raise Malformed(
            view.path, f"the optimizer's state {name}", "it is not finite: the training diverged",
            hint="pass --optimizer reset",
        )  # fmt: skip
    return value.masked_fill(nan, 0) if nan.any() else value


def _names(optimizer: dict[str, Any], view: DenseView) -> dict[Any, str]:
    """Key of the state → name of its weight, for the weights with masks.

    The names are in the state itself, or in the groups; or else weights of one shape are told apart by their order,
    where there are as many of them as there are states of that shape, all in one group.
    """
    state, groups = optimizer["state"], optimizer["param_groups"]
    stored = {weight.values: name for name, weight in view.masked.items()}
    if all(isinstance(key, str) for key in state):
        return {key: stored[key] for key in state if key in stored}
    if all("param_names" in group for group in groups):
        pairs = [pair for group in groups for pair in zip(group["params"], group["param_names"], strict=True)]
        return {key: stored[name] for key, name in pairs if name in stored and key in state}
    names: dict[Any, str] = {}
    for shape in {view.tensors[name].shape for name in view.masked}:
        keys = [[key for key in group["params"] if _has(state.get(key, {}), shape)] for group in groups]
        weights = [name for name, spec in view.tensors.items() if spec.shape == shape]
        mine = next((some for some in keys if some), [])
        if not mine:
            continue
        if sum(map(len, keys)) != len(mine) or len(mine) != len(weights):
            raise ModelError(
                f"{view.path}: which of the {len(weights)} weights of shape {list(shape)} each state of its optimizer "
                "belongs to cannot be told",
                hint="pass --optimizer reset, or give the optimizer names: SGD(model.named_parameters(), …)",
            )
        names |= {key: name for key, name in zip(mine, weights, strict=True) if name in view.masked}
    return names


def _has(entry: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    return any(_shape(value) == shape for value in entry.values())


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None
