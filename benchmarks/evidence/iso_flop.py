"""Claim: at the FLOPs of a dense model, a larger and sparse one is more accurate (Sparse-IFT, tables 2, 3 and 9).

    python benchmarks/evidence/iso_flop.py --task mnist1d --full        # train; goes on where it was stopped
    python benchmarks/evidence/iso_flop.py --task mnist1d --search      # the learning rate of the dense model
    python benchmarks/evidence/iso_flop.py --table                      # what is in docs/evidence.md
    python benchmarks/evidence/iso_flop.py --plot docs/images

The dense model is compared with each kind of transform at each sparsity, under each rule, with σ and without, all drawn
anew and at the dense model's multiply-adds, which each run asserts. Dense models of the wider widths show what more
FLOPs would bring. All models of a seed see the same batches in the same order for as many steps, with the same
optimizer, whose learning rate was chosen for the dense model alone, on other data. What is reported is the accuracy
after the last step. Results are appended, one JSON line a training, seed by seed, so that what is there is balanced at
any time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import TABLES, read
from tasks import TASKS, Samples, Splits, Task
from torch import nn

import sift_cli
from sift_cli.core.plan import AttachMask
from sift_cli.flops import count_module
from sift_cli.models import load
from sift_cli.surgery import transform
from sift_cli.transforms import TransformOptions, decide

RESULTS = Path(__file__).parent / "results" / "iso_flop.jsonl"
SPARSITIES = ("1/2", "3/4", "9/10")
RULES = ("static", "set", "rigl")
#: Kinds that put another layer in the place of a dense one, with a σ.
IN_PLACE = ("parallel", "factorized", "doped")
KINDS = ("dense", "wide", *IN_PLACE)
#: In place of a rule, for a model without masks.
NO_RULE = "none"
#: Of which one is searched for.
RATES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


@dataclass(frozen=True)
class Cell:
    """One model and how it is trained.

    Attributes:
        kind: Of transform; "dense" for the model itself, at sparsity "0", or for ``wide`` without its masks.
        sparsity: A fraction.
        rule: A rule of :func:`sift_cli.sparsify`, or ``NO_RULE``.
        sigma: Whether BatchNorm and ReLU follow each branch; None where there are no branches.
    """

    kind: str = "dense"
    sparsity: str = "0"
    rule: str = NO_RULE
    sigma: bool | None = None


def tables() -> Iterator[Cell]:
    """What the paper's tables 2, 3 and 9 have, and the dense models of the wider widths; the baseline first."""
    yield Cell()
    for sparsity in SPARSITIES:
        yield Cell("dense", sparsity)
        yield from (Cell("wide", sparsity, rule) for rule in RULES)
        yield from (Cell(kind, sparsity, "rigl", sigma) for kind in IN_PLACE for sigma in (True, False))


def rest() -> Iterator[Cell]:
    """The other kinds under the other rules."""
    for sparsity, rule in itertools.product(SPARSITIES, ("static", "set")):
        yield from (Cell(kind, sparsity, rule, sigma) for kind in IN_PLACE for sigma in (True, False))


def build(task: Task, cell: Cell, inputs: torch.Tensor, seed: int) -> tuple[nn.Module, int, int]:
    """The model of a cell, drawn by ``seed``; its MACs on one of ``inputs`` by its masks, and those of the dense model.

    Raises:
        AssertionError: A transformed model does not have the dense model's MACs, but for less than one weight's.
    """
    shape = (1, *inputs.shape[1:])
    dense = load(task.architecture, seed=seed, input_shape=shape)
    before = count_module(dense.module, dense.inputs, counter="dispatch", nonzero={}).dense
    if cell == Cell():
        return dense.module, before, before
    sigma = "none" if cell.sigma is False else None
    options = TransformOptions(Fraction(cell.sparsity), seed=seed, nonlinearity=sigma)
    plan = decide("wide" if cell.kind == "dense" else cell.kind, dense, options)
    if cell.kind == "dense":
        plan = replace(plan, edits=tuple(edit for edit in plan.edits if not isinstance(edit, AttachMask)))
    made = transform(dense, plan)
    after = count_module(made.module, made.inputs, counter="dispatch", nonzero=made.nonzero).sparse
    if cell.kind == "dense":
        return made.module, after, before
    unspent = min(layer.positions for layer in made.plan.sparse_layers) if cell.kind == "wide" else 1
    assert before - unspent < after <= before, f"{cell}: {after} MACs, dense {before}"
    return made.module, after, before


def run(task: Task, cell: Cell, splits: Splits, seed: int, *, held: str = "test") -> dict[str, Any]:
    """Train one model and measure it on the ``held`` split."""
    start = time.process_time()
    train = splits.train
    model, macs, dense = build(task, cell, train.inputs, seed)
    model.train()
    decayed = [one for one in model.parameters() if one.dim() > 1]
    others = [one for one in model.parameters() if one.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": task.decay}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=task.rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.steps)
    sparsifier = None
    if cell.rule != NO_RULE:
        sparsifier = sift_cli.sparsify(
            model, optimizer, cell.rule, total_steps=task.steps, frequency=task.frequency, seed=seed
        )
    recent = 0.0
    for inputs, targets in batches(task, train, seed):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        schedule.step()
        recent += 0.05 * (float(loss.detach()) - recent)
    spent = macs / dense
    if sparsifier is not None:
        spent = sparsifier.flops((inputs,), original=2 * dense * len(inputs)).relative
    accuracy, held_loss = measure(model, getattr(splits, held))
    return {
        "accuracy": round(accuracy, 5), "loss": round(held_loss, 5), "train_loss": round(recent, 5),
        "flops": round(spent, 5), "macs": macs, "seconds": round(time.process_time() - start, 2),
    }  # fmt: skip


def batches(task: Task, samples: Samples, seed: int) -> Iterator[Samples]:
    """The batches of a training, a function of task and seed alone; every epoch in another order, without its rest."""
    random = np.random.Generator(np.random.Philox(seed))
    per_epoch = len(samples.targets) // task.batch
    for step in range(task.steps):
        if step % per_epoch == 0:
            order = torch.from_numpy(random.permutation(len(samples.targets)))
        chosen = order[step % per_epoch * task.batch :][: task.batch]
        yield Samples(task.augment(samples.inputs[chosen], random), samples.targets[chosen])


@torch.no_grad()
def measure(model: nn.Module, samples: Samples) -> tuple[float, float]:
    """Accuracy and cross-entropy."""
    model.eval()
    logits = torch.cat([model(part) for part in samples.inputs.split(500)])
    accuracy = (logits.argmax(1) == samples.targets).float().mean()
    return float(accuracy), float(nn.functional.cross_entropy(logits, samples.targets))


def search(task: Task, seeds: range) -> None:
    """Print the validation accuracy of the dense model by learning rate."""
    splits = task.data()
    print("| learning rate | accuracy on validation data |\n|---|---|")
    for rate in RATES:
        found = [run(replace(task, rate=rate), Cell(), splits, seed, held="validation")["accuracy"] for seed in seeds]
        print(f"| {rate} | {np.mean(found):.2%} ± {np.std(found, ddof=1):.2%} |", flush=True)


def fill(task: str, cells: Iterable[tuple[int, Cell]], path: Path, rate: float | None) -> None:
    """Train ``cells`` by seed, and append to ``path`` those that are not there yet. Another learning rate than the
    task's needs another file."""
    there = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    keys = [*asdict(Cell()), "task", "seed"]
    done = {tuple(one[key] for key in keys) for one in there}
    settings = TASKS[task] if rate is None else replace(TASKS[task], rate=rate)
    splits = settings.data()
    for seed, cell in cells:
        key = {**asdict(cell), "task": task, "seed": seed}
        if tuple(key.values()) in done:
            continue
        line = json.dumps({**key, **run(settings, cell, splits, seed)})
        with path.open("a") as file:
            file.write(f"{line}\n")
        print(line, flush=True)


def show(path: Path) -> None:
    """Print the tables of docs/evidence.md."""
    for task, results in read(path).items():
        for name, lines in TABLES.items():
            print(f"<!-- table {path.stem} {task} {name} -->", *lines(results), "<!-- end -->", sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"JSON lines, {RESULTS.name} beside this file")
    parser.add_argument("--task", choices=TASKS, help="train what is not in the results yet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="the kinds with a σ under static and SET too")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="not all of them")
    parser.add_argument("--rate", type=float, help="another learning rate, for another file of results")
    parser.add_argument("--search", action="store_true", help="with --task: the dense model's learning rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seeds = range(arguments.seeds)
    if arguments.task and arguments.search:
        search(TASKS[arguments.task], seeds)
    elif arguments.task:
        # Seed by seed, and what the paper's tables have first.
        parts = (tables, rest) if arguments.full else (tables,)
        cells = [one for part in parts for one in itertools.product(seeds, part()) if one[1].kind in arguments.kinds]
        fill(arguments.task, cells, arguments.results, arguments.rate)
    if arguments.table:
        show(arguments.results)
    if arguments.plot:
        from plots import plot

        for task, results in read(arguments.results).items():
            plot(task, results, arguments.plot / f"iso-flop-{task}.svg")


if __name__ == "__main__":
    main()
