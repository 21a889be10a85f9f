"""Keeps masks, and moves them, while an optimizer trains."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sift_cli.core.masks import Mask
from sift_cli.errors import ModelError, PlanError
from sift_cli.models.calling import Inputs
from sift_cli.surgery import carry, packed_masks_of
from sift_cli.surgery.packed import pack
from sift_cli.training import rules
from sift_cli.training.costs import Spent, TrainingFlops, training_flops
from sift_cli.training.distributed import Replicas, local, whole
from sift_cli.training.names import plain_name, plain_names
from sift_cli.training.schedules import Constant, Schedule
from sift_cli.training.weights import MaskedWeight, check_fits, check_free, sharded

STATE = "sift.sparsifier/1"


@dataclass(frozen=True)
class Update:
    """What one update of the masks did.

    Attributes:
        step: The step of the optimizer after which it was.
        exchanged: Weight → (weights dropped, weights grown). Empty where a value was not finite: nothing moved then.
        kept: Weights kept after it, in all masks.
    """

    step: int
    exchanged: Mapping[str, tuple[int, int]]
    kept: int

    @property
    def churn(self) -> float:
        """Grown weights as a share of the kept ones."""
        return sum(grown for _, grown in self.exchanged.values()) / max(self.kept, 1)


class Sparsifier:
    """Holds the masks of a model through the steps of an optimizer, and moves them by a rule.

    It works through hooks: after each ``step()`` of the optimizer every masked weight, its gradient, and every tensor
    of the optimizer's state in its shape are exactly 0 outside its mask. A step that an update follows is an ordinary
    step. :func:`sift_cli.sparsify` makes one from a few numbers; here all of them are given.

    Args:
        model: A model with masks, wrapped as it is trained (DDP, FSDP2, ``torch.compile``).
        optimizer: What trains it; any of torch's way of working, also inside accelerate's.
        rule: A name in ``sift_cli.training.rules``.
        updates: The steps after which masks move, such as a :class:`~sift_cli.training.schedules.Window`.
        drop_fraction: Share of the kept weights that an update exchanges, by step.
        sparsity: Sparsity by step, for weights whose number of kept weights is not to stay; by plain name.
        weights: Plain names of the masked weights to look after; None for all that the optimizer trains.
        seed: What chance depends on, beside the weight's name and the step.
        process_group: The processes that train this model; None for all.

    Raises:
        PlanError: The rule does not exist, or does not do with this optimizer.
        ModelError: There are no masks, or none that this optimizer trains; or another Sparsifier holds one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        rule: str = "rigl",
        *,
        updates: Container[int] = (),
        drop_fraction: Schedule = Constant(0.3),  # noqa: B008
        sparsity: Mapping[str, Schedule] | None = None,
        weights: Collection[str] | None = None,
        seed: int = 0,
        process_group: Any = None,
    ) -> None:
        self.rule, self.updates, self.drop_fraction, self.seed = rule, updates, drop_fraction, seed
        self.sparsity = dict(sparsity or {})
        self.step_count = 0
        self.history: list[Update] = []
        self._plugin = rules.find(rule)
        self._model, self._optimizer = model, _inner(optimizer)
        self._replicas = Replicas(process_group)
        self._weights = self._own(weights)
        held = {weight.name for weight in self._weights}
        self._others = {
            name: self._model.get_parameter(name)
            for name in packed_masks_of(self._model)
            if weights is None and plain_name(self._model, name) not in held
        }
        self._spent = {weight.name: Spent() for weight in self._weights}
        for weight in self._weights:
            weight.clear(self._state(weight))
        self._hooks = (
            self._optimizer.register_step_pre_hook(self._before),
            self._optimizer.register_step_post_hook(self._after),
        )

    def _own(self, names: Collection[str] | None) -> list[MaskedWeight]:
        masks = packed_masks_of(self._model)
        if not masks:
            raise ModelError(
                "the model has no masks", hint="pass sparsity=0.9, or load a model that sift transform has written"
            )
        trained = {id(one) for group in self._optimizer.param_groups for one in group["params"]}
        plain = plain_names(self._model)
        if names is not None and (unknown := set(names) - {plain[name] for name in masks}):
            raise ModelError(f"there is no mask for {sorted(unknown)[0]!r}")
        found = {}
        for name, mask in masks.items():
            parameter = self._model.get_parameter(name)
            # A frozen weight is 0 where its mask is, and stays so.
            if id(parameter) in trained and parameter.requires_grad and (names is None or plain[name] in names):
                found[name] = sharded(mask, parameter)
        if not found:
            raise ModelError(
                "the optimizer trains none of the model's masked weights",
                hint="make it from the parameters of the model as it is now: after wrapping, sharding or replacing",
            )
        parameters = dict(self._model.named_parameters())
        check_free(self._model, found)
        for name, mask in found.items():
            check_fits(plain[name], parameters[name], whole(mask.kept(), parameters[name]))
        carry(self._model, found)
        owned = [MaskedWeight(plain[name], parameters[name], mask, self._collects) for name, mask in found.items()]
        return sorted(owned, key=lambda weight: weight.name)  # every process asks for the same weights in one order

    def _check_others(self) -> None:
        """Refuse to lose a mask: of a weight that was frozen, or not in the optimizer, and is trained now.

        Raises:
            ModelError: There is one.
        """
        graded = [name for name, parameter in self._others.items() if parameter.grad is not None]
        trained = {id(one) for group in self._optimizer.param_groups for one in group["params"]} if graded else ()
        for name in graded:
            if id(self._others[name]) in trained:
                raise ModelError(
                    f"{plain_name(self._model, name)} has a mask and is trained now, but was not when sparsify began",
                    hint="call it when all parameter groups are there; now, call remove() and then sparsify again",
                )

    def _collects(self) -> bool:
        """Whether an update that uses gradients follows the coming step."""
        return "gradient" in self._plugin.USES and self.step_count + 1 in self.updates

    @torch.no_grad()
    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._check_others()
        for weight in self._weights:
            weight.clear_gradient(always=self._replicas.several)

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # A gradient scaler leaves it to a fused optimizer to skip a step whose gradients overflowed.
        overflowed = getattr(optimizer, "found_inf", None)
        if overflowed is None or not overflowed.item():
            for weight in self._weights:
                self._spent[weight.name].step(weight.kept, weight.numel if self._collects() else weight.kept)
                weight.clear(self._state(weight))
            self.step_count += 1
            if self._plugin.USES and self.step_count in self.updates:
                self._update()
        for weight in self._weights:
            weight.forget()

    def _update(self) -> None:
        step, fraction = self.step_count, self.drop_fraction(self.step_count)
        finite = torch.stack([weight.finite().cpu() for weight in self._weights]).all()
        if self._replicas.any(self._on_device(~finite)):
            warnings.warn(f"masks did not move after step {step}: a weight or gradient is not finite", stacklevel=2)
            self.history.append(Update(step, {}, self.kept))
            return
        digest = hashlib.sha256()
        exchanged = {}
        for weight in self._weights:
            layer = weight.layer(
                gradient="gradient" in self._plugin.USES,
                fraction=fraction,
                target=self._target(weight),
                seed=self.seed,
                step=step,
                replicas=self._replicas,
            )
            update = self._plugin.update(layer)
            kept = weight.apply(layer, update, self._state(weight))
            exchanged[weight.name] = (int(update.dropped.count_nonzero()), int(update.grown.count_nonzero()))
            weight.forget()
            if self._replicas.several:
                digest.update(pack(kept).cpu().numpy().tobytes())
        self.history.append(Update(step, exchanged, self.kept))
        self._replicas.agree(digest.hexdigest(), step)

    def _target(self, weight: MaskedWeight) -> int:
        """Weights to keep after this step's update: as before, or what the schedule says and the pattern allows."""
        schedule = self.sparsity.get(weight.name)
        if schedule is None:
            return weight.kept
        wanted = round((1 - min(max(schedule(self.step_count), 0.0), 1.0)) * weight.numel)
        feasible = weight.pattern.feasible(weight.gemm)
        return feasible[min(len(feasible) - 1, max(0, (wanted - feasible.start) // feasible.step))]

    def _state(self, weight: MaskedWeight) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._optimizer.state.get(weight.parameter, {})
        return found

    def _on_device(self, flag: Tensor) -> Tensor:
        return flag.to(local(self._weights[0].parameter).device)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Plain name → the mask as it is now, a bool tensor on the weight's device, whole also where that is sharded
        (then every process has to ask)."""
        return {weight.name: weight.whole_mask() for weight in self._weights}

    @property
    def kept(self) -> int:
        """Weights kept now, in all masks."""
        return sum(weight.kept for weight in self._weights)

    @property
    def density(self) -> float:
        """Share of the masked tensors' weights that is kept now."""
        return self.kept / sum(weight.numel for weight in self._weights)

    def flops(self, inputs: Inputs, *, original: int | None = None, model: nn.Module | None = None) -> TrainingFlops:
        """What the steps so far have cost, at one batch a step.

        Args:
            inputs: A batch as the model gets it in a step, by position (a tuple) or by keyword (a mapping).
            original: FLOPs of a forward pass of the dense model to compare with, on that batch; None for this model
                without its masks.
            model: The same model to count in its place, where it is sharded.

        Raises:
            ModelError, UnsupportedOp: The model cannot be counted.
        """
        return training_flops(
            self._model if model is None else model, inputs, self._spent, self.step_count, original=original
        )

    def copy_masks_to(self, model: nn.Module) -> None:
        """Give another copy of the model the masks as they are now, and set its other weights to 0.

        A moving average of the weights needs it before it is used: it still has a share of every weight that was kept
        on the way.

        Raises:
            ModelError: A weight is not in it.
        """
        names = {plain: name for name, plain in plain_names(model).items()}
        masks = {}
        for weight in self._weights:
            if weight.name not in names:
                raise ModelError(f"the copy of the model has no {weight.name!r}")
            parameter = model.get_parameter(names[weight.name])
            bits = weight.mask.bits.to(local(parameter).device, copy=True)
            masks[names[weight.name]] = replace(weight.mask, bits=bits)
        carry(model, masks)
        for name, mask in masks.items():
            mask.clear_outside([local(model.get_parameter(name))])

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on as if it had not stopped, beside the state of model and optimizer.

        Masks are packed, one bit a weight. Take it between steps; under FSDP2 every process has to.
        """
        return {
            "format": STATE,
            "step": self.step_count,
            "seed": self.seed,
            "masks": {weight.name: pack(weight.whole_mask()).cpu() for weight in self._weights},
            "spent": {name: (spent.kept, spent.outside) for name, spent in self._spent.items()},
            "history": [(update.step, dict(update.exchanged), update.kept) for update in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`. Load the state of model and optimizer too, in any order.

        Raises:
            ModelError: It is the state of something else.
        """
        if state.get("format") != STATE:
            raise ModelError("this is no state of a Sparsifier", hint="pass what its state_dict() returned")
        masks = state["masks"]
        if masks.keys() != {weight.name for weight in self._weights}:
            differ = sorted(masks.keys() ^ {weight.name for weight in self._weights})
            raise ModelError(f"the state is of other masks: {differ[0]!r} is not in both")
        for weight in self._weights:
            if len(masks[weight.name]) != -(-weight.numel // 8):
                raise ModelError(f"the state has a mask of another size for {weight.name!r}")
        for weight in self._weights:
            mask = Mask(weight.mask.parameter_shape, masks[weight.name].cpu().numpy())
            weight.set_mask(torch.from_numpy(mask.to_bool()).to(weight.mask.bits.device))
            weight.forget()
            self._spent[weight.name] = Spent(*state["spent"][weight.name])
        self.step_count, self.seed = state["step"], state["seed"]
        self.history = [Update(*update) for update in state["history"]]

    def remove(self) -> None:
        """Take all hooks away. The model keeps its masks, and nothing holds them any more."""
        for hook in self._hooks:
            hook.remove()
        for weight in self._weights:
            weight.remove()


def _inner(optimizer: Any) -> Optimizer:
    """The optimizer that does the steps: accelerate's stands around it.

    Raises:
        PlanError: It is none of torch's, or one whose state masks do not reach.
    """
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise PlanError(f"{type(optimizer).__name__} is no torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise PlanError(
            "LBFGS keeps one flat history of all parameters, which masks do not reach",
            hint="use an optimizer whose state has the shape of the parameters, such as SGD or AdamW",
        )
    return optimizer
