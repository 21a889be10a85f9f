"""The training loop of ``sift train``.

Nothing that is random has a state: the order of the data, augmentation, dropout and masks are functions of the seed and
the step. So a run that was killed and goes on computes, on a CPU with as many threads, the same bits as one that was
not.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sift_cli.core.seeds import derive_seed
from sift_cli.errors import Malformed, MissingExtra, ModelError, PlanError
from sift_cli.flops import count_module
from sift_cli.models.calling import draw
from sift_cli.surgery import TransformedModel
from sift_cli.training.costs import TrainingFlops
from sift_cli.training.recipes.batches import Batch, InTurn, Order, loaded
from sift_cli.training.recipes.best import Best
from sift_cli.training.recipes.data import Data
from sift_cli.training.recipes.optimizers import optimizer
from sift_cli.training.recipes.rates import rate
from sift_cli.training.recipes.recipe import Recipe
from sift_cli.training.recipes.rules import sparsifier
from sift_cli.training.recipes.runs import BEST, LAST, STATE, RunFolder
from sift_cli.training.recipes.tasks import Measured, loss

Row = dict[str, Any]
#: How accelerate's launcher tells its processes to divide a model among them, and not only the data.
_DIVIDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
#: Seconds from one report of the progress to the next.
_PATIENCE = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        step, steps: Done, and in all.
        train: Means since the last line of the log; None right after one.
        validation: As measured last; None before that.
        churn: Share of the kept weights that the last update of the masks has grown; None before that.
    """

    step: int
    steps: int
    train: Measured | None
    validation: Measured | None
    churn: float | None


class Training:
    """One training, from its first step to its last.

    Args:
        recipe: What to do.
        start: The model to begin with; it is not changed.
        data: What to train on.
        folder: Where state and log go.
        accelerator: See :func:`accelerator`.
        publish: Writes the artifact of a module to a path; called in the main process only.
        watch: Is told of the progress; in the main process only.

    Raises:
        PlanError: Something in the recipe does not fit the model or the data.
    """

    def __init__(
        self,
        recipe: Recipe,
        start: TransformedModel,
        data: Data,
        folder: RunFolder,
        accelerator: Any,
        publish: Callable[[nn.Module, Path], object],
        watch: Callable[[Progress], None],
    ) -> None:
        self._recipe, self._start, self._data, self._folder = recipe, start, data, folder
        self._publish, self._watch = publish, watch
        self._accelerator = accelerator
        processes, self._rank = self._accelerator.num_processes, self._accelerator.process_index
        self._order = Order(data.train, recipe.batch, processes * recipe.accumulate, recipe.seed)
        unit = 1 if recipe.epochs is None else self._order.epoch
        self.steps = recipe.steps or max(1, round((recipe.epochs or 0) * unit))
        self._evaluate = self._every(recipe.evaluate, unit)
        self._checkpoint = self._every(recipe.checkpoint, unit, self._evaluate)
        self._rate = rate(recipe.schedule, unit=unit, steps=self.steps)

        self._module = copy.deepcopy(start.module).to(self._accelerator.device).train()
        made = optimizer(recipe.optimizer, self._module, decay_norms_and_biases=recipe.decay_norms_and_biases)
        self._average = None
        if recipe.ema is not None:
            average = get_ema_multi_avg_fn(recipe.ema)
            self._average = AveragedModel(self._module, multi_avg_fn=average, use_buffers=True)
        self._model, self._optimizer = self._accelerator.prepare(self._module, made)
        if recipe.compile:
            self._model = torch.compile(self._model)
        self._sparsifier = sparsifier(recipe, self._model, self._optimizer, self.steps)

        self._sums = torch.zeros(3, dtype=torch.float64, device=self._accelerator.device)
        self._rows: list[Row] = []
        self._best = Best(start.module, lambda module: publish(module, folder.path / BEST))
        self._validation: Measured | None = None
        self._seconds = 0.0

    def _every(self, asked: float | None, unit: int, otherwise: int | None = None) -> int:
        """Steps from one time to the next; once an epoch if nothing is said."""
        return max(1, round(asked * unit)) if asked is not None else otherwise or self._order.epoch

    def run(self, *, resume: bool, force: bool) -> list[Row]:
        """Train to the end, from the beginning or from where the run in the folder is.

        Returns:
            The lines of the log.

        Raises:
            ModelError: The model does not fit the data, or its loss is not finite any more.
            Malformed: The state in the folder is damaged, or not of this training.
            OutputError: The folder cannot be written.
        """
        self._accelerator.wait_for_everyone()  # until all have looked at the folder
        with self._folder.written(resume=resume, force=force) if self._main else contextlib.nullcontext():
            self._accelerator.wait_for_everyone()
            return self._run(resume=resume)

    def _run(self, *, resume: bool) -> list[Row]:
        state = self._folder.state() if resume else None
        first = 0 if state is None else self._restore(state)
        device = self._accelerator.device
        devices = [device] if device.type == "cuda" else []
        board = self._folder.tensorboard(first) if self._recipe.tensorboard and self._main else None
        began, told = time.monotonic() - self._seconds, 0.0
        with torch.random.fork_rng(devices=devices), board or contextlib.nullcontext():
            batches = self._batches(first)
            for step in range(first, self.steps):
                self._step(step, batches)
                done, last = step + 1, step + 1 == self.steps
                if done % self._evaluate == 0 or last:
                    self._seconds = time.monotonic() - began
                    self._row(done, board)
                if last and self._main:
                    self._best.publish(last=True)
                    self._publish(self._finished(), self._folder.path / LAST)
                if done % self._checkpoint == 0 or last:
                    self._seconds = time.monotonic() - began
                    self._write_state(done)
                if self._main and (time.monotonic() - told > _PATIENCE or last):
                    told = time.monotonic()
                    self._watch(self._progress(done))
        return self._rows

    # -- a step ------------------------------------------------------------------------------------------------------

    def _parts(self) -> range:
        """The parts of each batch that are this process's."""
        return range(self._rank * self._recipe.accumulate, (self._rank + 1) * self._recipe.accumulate)

    def _batches(self, first: int) -> Iterator[Batch]:
        keys = ((step, part) for step in range(first, self.steps) for part in self._parts())
        pinned = self._accelerator.device.type == "cuda"
        return loaded(self._order, keys, workers=self._recipe.workers, pinned=pinned)

    def _step(self, step: int, batches: Iterator[Batch]) -> None:
        recipe, accelerator = self._recipe, self._accelerator
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.optimizer.arguments["lr"] * self._rate(step)
        for part in self._parts():
            inputs, targets = (tensor.to(accelerator.device, non_blocking=True) for tensor in next(batches))
            torch.manual_seed(derive_seed(recipe.seed, f"step {step} part {part}", "forward"))
            alone = accelerator.no_sync(self._model) if part != self._parts()[-1] else contextlib.nullcontext()
            with alone:
                value, sums = self._loss(self._model, inputs, targets, smoothing=recipe.label_smoothing)
                accelerator.backward(value / recipe.accumulate)
            self._sums += sums
        if recipe.clip is not None:
            accelerator.clip_grad_norm_(self._model.parameters(), recipe.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._average is not None:
            self._average.update_parameters(self._module)

    def _loss(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, smoothing: float) -> tuple[Tensor, Tensor]:
        name = self._start.plan.inputs[0].name
        output = model(inputs) if name is None else model(**{name: inputs})
        return loss(output, targets, self._data.classes, smoothing=smoothing)

    # -- what is measured and written --------------------------------------------------------------------------------

    @property
    def _main(self) -> bool:
        return bool(self._accelerator.is_main_process)

    def _finished(self) -> nn.Module:
        """What is evaluated and written: the average of the weights where there is one."""
        if self._average is None:
            return self._module
        if self._sparsifier is not None:
            self._sparsifier.copy_masks_to(self._average.module)
        return self._average.module

    @torch.no_grad()
    def _measure(self) -> Measured:
        model, accelerator = self._finished(), self._accelerator
        samples = InTurn(self._data.validation, self._order.size // self._order.parts)
        sums = torch.zeros_like(self._sums)
        model.eval()
        keys = iter(range(self._rank, len(samples), accelerator.num_processes))
        pinned = accelerator.device.type == "cuda"
        with accelerator.autocast():
            for inputs, targets in loaded(samples, keys, workers=self._recipe.workers, pinned=pinned):
                inputs, targets = inputs.to(accelerator.device), targets.to(accelerator.device)
                sums += self._loss(model, inputs, targets, smoothing=0.0)[1]
        model.train()
        return Measured.of(self._data.task, accelerator.reduce(sums))

    def _row(self, step: int, board: Any) -> None:
        """Measure, and write a line of the log."""
        train = Measured.of(self._data.task, self._accelerator.reduce(self._sums))
        if not math.isfinite(train.loss):
            raise ModelError(
                f"the loss is {train.loss} after step {step}", hint="lower optimizer.lr, add a warmup, or set clip: 1.0"
            )
        self._sums.zero_()
        self._validation = validation = self._measure()
        spent = self._flops(step)
        row = {
            "step": step,
            "epoch": step / self._order.epoch,
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "train_loss": train.loss,
            f"train_{train.reported[0]}": train.reported[1],
            "validation_loss": validation.loss,
            f"validation_{validation.reported[0]}": validation.reported[1],
            "churn": self._churn,
            "density": None if self._sparsifier is None else self._sparsifier.density,
            "flops_sparse": spent.sparse,
            "flops_dense_gradients": spent.gradients,
            "flops_of_dense_training": spent.dense,
            "relative_flops": spent.relative,
            "seconds": self._seconds,
        }
        self._rows.append(row)
        if self._main:
            self._best.offer(self._finished(), validation.score)
            self._best.publish()
            self._folder.write_log(self._rows)
        if board is not None:
            for key, value in row.items():
                if value is not None and key != "step":
                    board.add_scalar(key, value, step)
            board.flush()

    @property
    def _churn(self) -> float | None:
        history = self._sparsifier.history if self._sparsifier is not None else ()
        return history[-1].churn if history else None

    def _flops(self, step: int) -> TrainingFlops:
        """What the training has cost so far, counted on one sample."""
        inputs, dense = draw(self._start.plan.inputs, device="meta"), 2 * self._start.plan.macs_before
        if self._sparsifier is not None:
            spent = self._sparsifier.flops(inputs, original=dense)
        else:
            report = count_module(self._module, inputs, counter="dispatch", nonzero={})
            spent = TrainingFlops(step, 3 * dense * step, 3 * 2 * report.dense * step, 0)
        batch = self._recipe.batch
        return TrainingFlops(step, spent.dense * batch, spent.sparse * batch, spent.gradients * batch)

    def _progress(self, step: int) -> Progress:
        train = Measured.of(self._data.task, self._sums) if self._sums[2] else None
        return Progress(step, self.steps, train, self._validation, self._churn)

    # -- stopping and going on ---------------------------------------------------------------------------------------

    def _write_state(self, step: int) -> None:
        state = {
            "step": step,
            "rows": self._rows,
            "seconds": self._seconds,
            "sums": self._accelerator.reduce(self._sums),
            **{name: part.state_dict() for name, part in self._stateful().items()},
        }
        if self._main:
            self._folder.write_state(state)
        self._accelerator.wait_for_everyone()

    def _restore(self, state: Mapping[str, Any]) -> int:
        try:
            for name, part in self._stateful().items():
                part.load_state_dict(state[name])
            self._rows, self._seconds = list(state["rows"]), float(state["seconds"])
            if self._main:
                self._sums.copy_(state["sums"])
            return int(state["step"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise Malformed(self._folder.path / STATE, "its contents", f"it does not fit the recipe: {why}") from None

    def _stateful(self) -> dict[str, Any]:
        parts = {
            "model": self._module,
            "optimizer": self._optimizer,
            "sparsifier": self._sparsifier,
            "average": self._average,
            "scaler": self._accelerator.scaler,
            "best": self._best,
        }
        return {name: part for name, part in parts.items() if part is not None}


def accelerator(precision: str) -> Any:
    """accelerate's handle of device, processes and precision; it is told of processes by the environment.

    Raises:
        MissingExtra: accelerate is not installed.
        PlanError: There is no such arithmetic here, or ``accelerate launch`` was asked to divide the model.
    """
    try:
        from accelerate import Accelerator
    except ImportError:
        raise MissingExtra("accelerate", "train", "sift train") from None
    for variable, what in _DIVIDING.items():
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise PlanError(
                f"sift train has all of the model in each process, and was launched with {what}",
                hint="launch it without; sift_cli.sparsify, in a loop of your own, takes a model sharded by FSDP2",
            )
    try:
        # Unless it is told, it takes several processes without an accelerator for as many trainings.
        here = {"cpu": not torch.accelerator.is_available()}
        return Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision), **here)
    except ValueError as error:  # another precision in this process before, or a device that does not have this one
        raise PlanError(f"precision {precision} does not work here: {str(error).splitlines()[0]}") from None
