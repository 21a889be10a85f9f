"""docs/evidence.md, sparse pre-training and dense fine-tuning: its tables, made again, and its texts."""

from __future__ import annotations

import importlib
import math
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evidence.md").read_text()


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """benchmarks/evidence/language.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks" / "evidence"))
        yield importlib.import_module("language")
        del sys.modules["language"]


def test_the_tables_are_those_of_the_results(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script.show(script.RESULTS)
    pattern = r"<!-- table language (\S+) -->\n.*?\n<!-- end -->"
    printed, page = (
        {found[1]: found[0] for found in re.finditer(pattern, text, re.DOTALL)}
        for text in (capsys.readouterr().out, PAGE)
    )
    assert set(printed) == set(script.TABLES)
    assert page == printed


def test_every_model_was_trained_as_often(script: Any) -> None:
    found = script.Found(script.RESULTS)
    for training in script.planned(range(3)):
        assert training.seed in found.bits(training.model, training.method), training


def test_the_rates_are_the_best_of_the_dense_model_and_not_at_an_end(script: Any) -> None:
    searched = script.Found(script.RESULTS).searched
    for setting, method in ((script.PRETRAINING, None), (script.TUNING, "dense")):
        losses = {line["rate"]: line["search_loss"] for line in searched if line["method"] == method}
        assert losses.keys() == set(setting.rates)
        assert setting.rate == min(losses, key=lambda rate: losses[rate])
        assert min(losses) < setting.rate < max(losses)


def test_models_with_the_same_flops_have_those_of_the_formula(script: Any) -> None:
    """Forward FLOPs a byte by hand: layers of 12 d² weights, attention over 128 bytes twice, logits of 256 bytes."""
    found = script.Found(script.RESULTS)
    same = [(script.DENSE, None), (script.DENSE, "dense"), *((f"wide {part} %, all FLOPs", None) for part in (50, 75))]
    for width, models in ((48, same), (96, [(script.WIDER, None)])):
        flops = 2 * (3 * (12 * width**2 + 2 * 128 * width) + 256 * width)
        for model, method in models:
            steps = 1500 if method is None else 600
            assert set(found.get(model, method, "flops_a_byte").values()) == {flops}
            assert set(found.get(model, method, "training_flops").values()) == {3 * flops * steps * 8 * 128}


def test_no_text_is_in_two_parts(script: Any, tmp_path: Path) -> None:
    root = Path(sysconfig.get_path("stdlib"))
    if not (root / "test" / "test_ast.py").is_file():
        pytest.skip("this interpreter comes without its tests")
    sizes = script.prepare(tmp_path)
    assert all(size["files"] > 10 for size in sizes.values())
    parts = {name: (tmp_path / name).read_bytes() for name in sizes}
    assert {name: size["bytes"] for name, size in sizes.items()} == {name: len(raw) for name, raw in parts.items()}
    for path in (*root.glob("*.py"), *root.glob("test/test_s*.py")):
        raw = path.read_bytes()
        if len(raw) > 1000:
            assert [raw[:1000] in part for part in parts.values()].count(True) == 1, path
    assert (root / "test" / "test_ast.py").read_bytes() not in parts["library.train"]


def test_differences_are_between_runs_of_a_seed(script: Any, tmp_path: Path) -> None:
    bits = {"dense": (2.0, 2.2, 2.4, 9.0), "wide 50 %": (1.9, 2.0, 2.1)}
    lines = [
        f'{{"model": "{model}", "method": null, "seed": {seed}, "library_loss": {value * math.log(2)}}}'
        for model, values in bits.items()
        for seed, value in enumerate(values)
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    found = script.Found(tmp_path / "results.jsonl")
    # −.1, −.2 and −.3, which have a standard deviation of .1 and an error of .1/√3
    assert found.difference(("wide 50 %", None), ("dense", None)) == "−0.200 ± 0.058"
