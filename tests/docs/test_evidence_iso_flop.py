"""docs/evidence.md, Sparse-IFT against dense: its tables made again from the results, and what all trainings share."""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evidence.md").read_text()

pytest.importorskip("mnist1d")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """benchmarks/evidence/iso_flop.py, beside the modules that it imports."""
    folder = str(ROOT / "benchmarks" / "evidence")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("iso_flop")
        for name in [
            name for name, module in sys.modules.items() if (module.__dict__.get("__file__") or "").startswith(folder)
        ]:
            del sys.modules[name]


RESULTS = sorted((ROOT / "benchmarks" / "evidence" / "results").glob("iso_flop*.jsonl"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_tables_are_those_of_the_results(path: Path, script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script.show(path)
    pattern = rf"<!-- table {path.stem} (\S+ \S+) -->\n(.*?)\n<!-- end -->"
    printed = dict(re.findall(pattern, capsys.readouterr().out, re.DOTALL))
    there = dict(re.findall(pattern, PAGE, re.DOTALL))
    assert there
    assert there == {name: printed[name] for name in there}


def test_every_table_is_in_the_page(script: Any) -> None:
    there = re.findall(rf"<!-- table {script.RESULTS.stem} (\S+) (\S+) -->", PAGE)
    assert sorted(there) == sorted(itertools.product(script.TASKS, script.TABLES))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_all_cells_were_run_as_often(path: Path, script: Any) -> None:
    for task, results in script.read(path).items():
        assert len(results.dense) >= 3, task
        for part in (script.tables, script.rest):
            runs = [results[cell.kind, cell.sigma, cell.sparsity, cell.rule] for cell in part()]
            assert all(one.keys() == results.dense.keys() for one in runs if one), task
            assert path != script.RESULTS or all(map(bool, runs)) or not any(runs), task


#: MACs of the dense models, by hand: positions × channels in and out × taps.
MNIST1D = 40 * 5 * 12 + 20 * 3 * 12 * 12 + 10 * 3 * 12 * 24 + 5 * 3 * 24 * 24 + 24 * 10
DIGITS = (
    16 * 16 * 9 * 3 * 4
    + 16 * 16 * 9 * 4 * 4 * 4
    + sum((16 // 2**n) ** 2 * (9 * 2 * w * w + 3 * 9 * 2 * w * 2 * w + 2 * w * w) for n, w in ((1, 4), (2, 8), (3, 16)))
    + 32 * 10
)


#: One cell of each kind and σ, and each sparsity of ``wide``. The rule makes no difference to what is built.
BUILT = [
    *(("mnist1d", "wide", sparsity, None) for sparsity in ("1/2", "3/4", "9/10")),
    *(("mnist1d", kind, "9/10", sigma) for kind in ("parallel", "factorized", "doped") for sigma in (True, False)),
    ("digits", "wide", "3/4", None),
    ("digits", "doped", "1/2", True),
]


@pytest.mark.parametrize(("task", "kind", "sparsity", "sigma"), BUILT)
def test_models_cost_what_the_dense_one_does(
    script: Any, task: str, kind: str, sparsity: str, sigma: bool | None
) -> None:
    shape, dense, finest = {"mnist1d": ((1, 40), MNIST1D, 5), "digits": ((3, 16, 16), DIGITS, 4)}[task]
    inputs = torch.zeros(1, *shape)
    model, macs, baseline = script.build(script.TASKS[task], script.Cell(kind, sparsity, "static", sigma), inputs, 0)
    assert baseline == dense
    assert macs == multiplied(model, inputs)
    assert dense - (finest if kind == "wide" else 1) < macs <= dense
    # The models themselves call F.relu, and have a norm for each convolution.
    parts = [type(one) for one in model.modules() if isinstance(one, nn.ReLU | nn.BatchNorm1d | nn.BatchNorm2d)]
    assert (nn.ReLU in parts) == (sigma is True)
    assert (len(parts) > {"mnist1d": 4, "digits": 20}[task]) == (sigma is True)


def multiplied(model: nn.Module, inputs: torch.Tensor) -> int:
    """Weights that are not 0, as often as each is used."""
    found = []

    def count(module: nn.Module, given: Any, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)
        found.append(int(module.weight.count_nonzero()) * output.numel() // module.weight.shape[0])

    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(inputs)
    return sum(found)


def test_the_dense_reference_is_the_wide_model_without_masks(script: Any) -> None:
    inputs, task = torch.zeros(1, 1, 40), script.TASKS["mnist1d"]
    model, macs, baseline = script.build(task, script.Cell("dense", "3/4"), inputs, 0)
    assert model.conv1.out_channels == 24  # twice 12
    assert all(bool(one.weight.all()) for one in model.modules() if isinstance(one, nn.Conv1d | nn.Linear))
    assert macs == multiplied(model, inputs) == 40 * 5 * 24 + 3 * 4 * 8640 + 2 * 240
    assert baseline == MNIST1D
    wide, _, _ = script.build(task, script.Cell("wide", "3/4", "static"), inputs, 0)
    shapes = [{name: one.shape for name, one in made.named_parameters()} for made in (model, wide)]
    assert shapes[0] == shapes[1]


def test_batches_depend_on_the_seed_alone(script: Any) -> None:
    samples = script.Samples(torch.randn(300, 1, 40, generator=torch.Generator().manual_seed(0)), torch.arange(300))
    task = script.replace(script.TASKS["mnist1d"], steps=5)
    once, again, other = (list(script.batches(task, samples, seed)) for seed in (0, 0, 1))
    for a, b in zip(once, again, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
    assert not torch.equal(once[0].targets, other[0].targets)
    assert len({*once[0].targets.tolist(), *once[1].targets.tolist()}) == 256  # an epoch has no sample twice
    assert not torch.equal(once[0].targets, once[2].targets)


def test_differences_are_between_runs_of_a_seed(script: Any) -> None:
    report = importlib.import_module("report")
    runs = {seed: {"accuracy": accuracy} for seed, accuracy in ((0, 0.71), (1, 0.82), (2, 0.93), (5, 0.0))}
    others = {seed: {"accuracy": accuracy} for seed, accuracy in ((0, 0.70), (1, 0.80), (2, 0.90), (4, 1.0))}
    found = report.difference(runs, others)
    assert found.count == 3
    assert found.mean == pytest.approx(2)  # of 1, 2 and 3 points
    assert found.deviation == pytest.approx(1)
    assert found.error == pytest.approx(3**-0.5)
    assert report.difference(runs, {7: {"accuracy": 1.0}}) is None
