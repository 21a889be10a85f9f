"""Claim: holding masks costs less than 5 % of a training step, and moving them by RigL less than 10 % on average.

    python benchmarks/training/overhead.py [--batch 32] [--rounds 5] [--sparsity 0.9] [--interval 100] [--threads 1]

trains the ResNet-18 for CIFAR on random images, bare and under each rule, in turns: a step of the bare loop before each
step under a rule, so that both see the same machine. Times are of the processor, which others on it disturb less.
"step" is a step without an update, "update" one with it, both relative to the bare step before them, medians over the
rounds; "on average" has one update every ``--interval`` steps. "bytes a weight" is what is held between steps beyond
the bare loop's weights, gradients and optimizer state.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import sift_cli
from sift_cli.models import load

RULES = ("static", "set", "rigl", "gmp")


def subject(rule: str | None, arguments: argparse.Namespace) -> tuple[Callable[[bool], float], float]:
    """Processor seconds of a step, with an update or without, and bytes held for each masked weight."""
    model = load("builtin:cifar_resnet18", seed=0).module.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    images, labels = torch.randn(arguments.batch, 3, 32, 32), torch.randint(100, (arguments.batch,))
    updates: set[int] = set()
    sparsifier, held = None, 0.0
    if rule is not None:
        first = sift_cli.sparsify(model, optimizer, "static", sparsity=arguments.sparsity)
        first.remove()
        sparsifier = sift_cli.Sparsifier(model, optimizer, rule, updates=updates)
        weights = sparsifier._weights
        held = sum(one.mask.bits.nbytes for one in weights) / sum(one.numel for one in weights)

    def step(update: bool) -> float:
        updates.clear()
        if sparsifier is not None and update:
            updates.add(sparsifier.step_count + 1)
        start = time.process_time()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return time.process_time() - start

    return step, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sparsity", default="0.9")
    parser.add_argument("--interval", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bare, _ = subject(None, arguments)
    subjects = {rule: subject(rule, arguments) for rule in RULES}
    for step in (bare, *(step for step, _ in subjects.values())):
        step(True)
    ordinary: dict[str, list[float]] = {rule: [] for rule in RULES}
    updating: dict[str, list[float]] = {rule: [] for rule in RULES}
    for _ in range(arguments.rounds):
        for with_update, ratios in ((False, ordinary), (True, updating)):
            for rule, (step, _) in subjects.items():
                seconds = bare(False)
                ratios[rule].append(step(with_update) / seconds)
    print(f"batch {arguments.batch}, {arguments.threads} threads, one step of the bare loop {seconds:.2f} s")
    print("\n| rule | step | update | on average | bytes a weight |\n|---|---|---|---|---|")
    for rule, (_, held) in subjects.items():
        step, update = statistics.median(ordinary[rule]), statistics.median(updating[rule])
        average = (step * (arguments.interval - 1) + update) / arguments.interval
        print(f"| {rule} | {step:.3f} | {update:.3f} | {average:.3f} | {held:.3f} |")


if __name__ == "__main__":
    main()
