"""What docs/check.md shows is what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import yaml

from sift_cli.budgets import baseline, budget, config

DOCS = Path(__file__).parents[2] / "docs" / "check.md"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found
    return found


def test_the_configuration_is_one(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    (tmp_path / "sift.toml").write_text(text)
    assert len(config.load(tmp_path / "sift.toml").tables) == 3


def test_the_baseline_is_one(tmp_path: Path) -> None:
    (text,) = blocks("json")
    (tmp_path / "b.json").write_text(text)
    figures = baseline.read(tmp_path / "b.json")
    baseline.write(tmp_path / "again.json", figures)
    assert (tmp_path / "again.json").read_text() == text
    assert set(figures["exports/model.onnx"]) == set(budget.FIGURES)


def test_every_key_is_explained() -> None:
    text = DOCS.read_text()
    for name in fields(budget.Budget):
        assert f"`{name.name.replace('_', '-')}`" in text, name.name


def test_the_workflow_uses_inputs_that_the_action_has() -> None:
    action = yaml.safe_load((DOCS.parents[1] / "action.yml").read_text())
    workflow = yaml.safe_load(blocks("yaml")[0])
    (step,) = [step for step in workflow["jobs"]["check"]["steps"] if str(step.get("uses")).startswith("sift-cli/")]
    assert step["with"].keys() <= action["inputs"].keys()
    for name in action["inputs"]:
        assert f"`{name}`" in DOCS.read_text(), name
    hook = yaml.safe_load(blocks("yaml")[1])["repos"][0]["hooks"][0]["id"]
    assert hook == yaml.safe_load((DOCS.parents[1] / ".pre-commit-hooks.yaml").read_text())[0]["id"]
