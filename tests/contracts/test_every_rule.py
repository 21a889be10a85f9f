"""Every rule, on every kind of pattern: exact numbers, nothing both dropped and grown, pure, the same everywhere."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sift_cli
from sift_cli import registry
from sift_cli.core.seeds import generator
from sift_cli.errors import PlanError
from sift_cli.sparsity.patterns import Gemm, parse
from sift_cli.training.rules import Layer, find

RULES = registry.names("sift_cli.training.rules")
#: Those that lead from one sparsity to another by themselves.
RAMPS = tuple(rule for rule in RULES if hasattr(find(rule), "ramp"))
PATTERNS = ("unstructured", "2:4", "2:8T", "block4x4")
every_rule = pytest.mark.parametrize("rule", RULES)
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)


def layer(pattern: str, shape: tuple[int, ...], *, seed: int, fraction: float, ties: bool = False) -> Layer:
    """A layer of random values; with ``ties`` they are −1, 0 and 1."""
    random = np.random.default_rng(seed)
    kind, gemm = parse(pattern), Gemm(shape)
    feasible = kind.feasible(gemm)
    count = feasible[len(feasible) // 2]
    mask = torch.from_numpy(kind.draw(gemm, count, seed=seed, name="w").to_bool())

    def values() -> torch.Tensor:
        drawn = random.integers(-1, 2, shape) if ties else random.standard_normal(shape)
        return torch.from_numpy(drawn.astype(np.float32))

    weight, gradient = values() * mask, values() * ~mask
    return Layer(weight, mask, gradient, fraction, count, generator(seed, "w", "update 100"), kind, gemm)


@every_rule
@every_pattern
@given(
    seed=st.integers(0, 1000),
    fraction=st.floats(0, 1),
    rows=st.integers(8, 20),
    columns=st.integers(8, 20),
    ties=st.booleans(),
)
def test_numbers_are_exact(
    rule: str, pattern: str, seed: int, fraction: float, rows: int, columns: int, ties: bool
) -> None:
    before = layer(pattern, (rows, columns), seed=seed, fraction=fraction, ties=ties)
    copies = before.weight.clone(), before.mask.clone(), before.gradient.clone()
    update = find(rule).update(before)
    dropped, grown = int(update.dropped.sum()), int(update.grown.sum())
    assert not (update.dropped & update.grown).any()
    assert not (update.dropped & ~before.mask).any(), "dropped what was not kept"
    assert not (update.grown & before.mask).any(), "grew what was kept"
    assert dropped == grown <= int(fraction * int(before.mask.sum()))
    after = before.mask & ~update.dropped | update.grown
    assert before.pattern.violations(before.gemm, after.numpy()) == 0
    assert all(map(torch.equal, copies, (before.weight, before.mask, before.gradient))), "not pure"


@every_rule
@every_pattern
@given(seed=st.integers(0, 1000), ties=st.booleans())
def test_drop_nothing_and_nothing_changes(rule: str, pattern: str, seed: int, ties: bool) -> None:
    update = find(rule).update(layer(pattern, (16, 24), seed=seed, fraction=0.0, ties=ties))
    assert not update.dropped.any()
    assert not update.grown.any()


@every_rule
@pytest.mark.parametrize("pattern", ["unstructured", "block4x4"])
@given(seed=st.integers(0, 1000), place=st.floats(0, 1))
def test_another_number_of_weights_is_reached(rule: str, pattern: str, seed: int, place: float) -> None:
    """As a schedule of sparsities asks for it: fewer with every rule that moves masks, more with those that grow."""
    before = layer(pattern, (16, 24), seed=seed, fraction=0.3)
    feasible = before.pattern.feasible(before.gemm)
    target = feasible[int(place * (len(feasible) - 1))]
    update = find(rule).update(replace(before, target=target))
    after = before.mask & ~update.dropped | update.grown
    if find(rule).USES and (rule not in RAMPS or target < before.target):
        assert int(after.sum()) == target
    else:
        assert torch.equal(after, before.mask)
    assert not (update.dropped & update.grown).any()
    assert before.pattern.violations(before.gemm, after.numpy()) == 0


@every_rule
def test_a_full_layer_has_nothing_to_exchange(rule: str) -> None:
    before = layer("unstructured", (8, 8), seed=0, fraction=0.5)
    full = replace(before, mask=torch.ones_like(before.mask), weight=torch.randn(8, 8), target=64)
    update = find(rule).update(full)
    assert not update.dropped.any()
    assert not update.grown.any()


@every_rule
def test_unknown_rules_are_refused_by_name(rule: str) -> None:
    with pytest.raises(PlanError, match="no rule") as caught:
        find(f"{rule}x")
    assert repr(rule) in str(caught.value.hint)


def trained(rule: str) -> str:
    """Digest of masks and weights after a short training."""
    import hashlib

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sift_cli.sparsify(net, optimizer, rule, sparsity=0.75, total_steps=12, frequency=2, stop=1, seed=5)
    for _ in range(12):
        optimizer.zero_grad()
        net(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    digest = hashlib.sha256()
    for name, mask in sorted(sparsifier.masks.items()):
        digest.update(mask.numpy().tobytes())
        digest.update(net.get_parameter(name).detach().numpy().tobytes())
    return digest.hexdigest()


def test_the_same_training_in_another_process() -> None:
    code = (
        "import importlib.util as u; from sift_cli import registry\n"
        f"spec = u.spec_from_file_location('contract', {__file__!r}); module = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(*(module.trained(rule) for rule in module.RULES))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "3"},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.split() == [trained(rule) for rule in RULES]
    assert len(set(done.stdout.split())) == len(RULES)
