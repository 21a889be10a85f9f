"""The pre-commit hook and the GitHub action, against what pre-commit and GitHub document, and run with a stand-in."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

#: docs.github.com, "Metadata syntax reference": key → keys that there may be below it.
ACTION = {"name", "author", "description", "inputs", "outputs", "runs", "branding"}
INPUT = {"description", "required", "default", "deprecationMessage"}
OUTPUT = {"description", "value"}
STEP = {"run", "shell", "if", "name", "id", "env", "working-directory", "uses", "with", "continue-on-error"}


def problems(action: dict[str, Any]) -> list[str]:
    """What GitHub would refuse of a composite action."""
    found = [f"unknown key {key}" for key in action.keys() - ACTION]
    found += [f"no {key}" for key in ("name", "description", "runs") if key not in action]
    for name, entry in action.get("inputs", {}).items():
        found += [f"input {name}: {key}" for key in entry.keys() - INPUT]
        found += [f"input {name} is not described"] * ("description" not in entry)
        found += [f"input {name}: its default is no text"] * (not isinstance(entry.get("default", ""), str))
        found += [f"input {name}: a bad name"] * (not re.fullmatch(r"[A-Za-z_][\w-]*", name))
    for name, entry in action.get("outputs", {}).items():
        found += [f"output {name}: {key}" for key in entry.keys() ^ OUTPUT]
    runs = action.get("runs", {})
    found += ["runs is not {using: composite, steps}"] * (
        runs.keys() != {"using", "steps"} or runs["using"] != "composite"
    )
    for step in runs.get("steps", []):
        found += [f"step: {key}" for key in step.keys() - STEP]
        found += ["a step neither runs nor uses, or both"] * (("run" in step) == ("uses" in step))
        found += ["a step runs in no shell"] * ("run" in step and "shell" not in step)
    text = yaml.safe_dump(action)
    found += [f"no input {name}" for name in re.findall(r"inputs\.([\w-]+)", text) if name not in action["inputs"]]
    ids = {step.get("id") for step in runs.get("steps", [])}
    return found + [f"no step {name}" for name in re.findall(r"steps\.([\w-]+)\.outputs", text) if name not in ids]


@pytest.fixture
def action() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "action.yml").read_text())


def test_the_action_is_one(action: dict[str, Any]) -> None:
    assert problems(action) == []


def test_what_is_no_action(action: dict[str, Any]) -> None:
    action["input"] = action["inputs"].pop("paths")
    action["inputs"]["python-version"]["default"] = 3.12
    del action["runs"]["steps"][2]["shell"], action["runs"]["steps"][2]["id"]
    assert problems(action) == [
        "unknown key input", "input python-version: its default is no text", "a step runs in no shell",
        "no input paths", "no step check",
    ]  # fmt: skip


def test_nothing_is_put_into_a_script(action: dict[str, Any]) -> None:
    """GitHub replaces ``${{ }}`` in a script by text: a file named $(…) would be run."""
    assert not [step for step in action["runs"]["steps"] if "${{" in step.get("run", "")]


@pytest.mark.parametrize(("code", "verdict"), [(0, "held"), (6, "broken"), (3, "error"), (2, "usage")])
def test_the_script(action: dict[str, Any], tmp_path: Path, code: int, verdict: str) -> None:
    script = action["runs"]["steps"][2]["run"]
    stand_in = tmp_path / "bin" / "sift"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@"\nexit {code}\n')
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IEXEC)
    environment = {
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(tmp_path / "output"),
        "PATHS": "exports/*.onnx\n\n$(touch hacked) b.pt", "OPTIONS": "--max-size=20 MB\n  --min-sparsity=.9 \n",
        "FORMAT": "junit", "OUTPUT": "report.xml",
    }  # fmt: skip
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    wanted = ["check", "--format=junit", "--max-size=20 MB", "--min-sparsity=.9", "--", "exports/*.onnx"]
    assert done.stdout.splitlines() == [*wanted, "$(touch hacked) b.pt"]
    assert (tmp_path / "report.xml").read_text() == done.stdout
    assert (tmp_path / "output").read_text() == f"verdict={verdict}\n"
    assert not (tmp_path / "hacked").exists()


def test_the_options_of_the_action_are_options(action: dict[str, Any]) -> None:
    from typer.testing import CliRunner

    from sift_cli.app import app

    done = CliRunner().invoke(app, ["check", "--format=github", "--"])
    assert done.exit_code == 2
    assert "there is nothing to check" in done.stderr


def test_the_hook() -> None:
    clientlib = pytest.importorskip("pre_commit.clientlib")
    (hook,) = clientlib.load_manifest(str(ROOT / ".pre-commit-hooks.yaml"))
    assert (hook["entry"], hook["language"], hook["pass_filenames"]) == ("sift check", "python", False)
    runs = re.compile(hook["files"])
    for path in ("a.onnx", "exports/b.safetensors", "sift.toml", "sub/pyproject.toml", "sift-baseline.json"):
        assert runs.search(path), path
    for path in ("a.py", "my-sift.toml", "onnx", "a.onnx.md"):
        assert not runs.search(path), path


def test_a_broken_hook_is_refused(tmp_path: Path) -> None:
    clientlib = pytest.importorskip("pre_commit.clientlib")
    path = tmp_path / "hooks.yaml"
    path.write_text((ROOT / ".pre-commit-hooks.yaml").read_text().replace("language: python", "language: pithon"))
    with pytest.raises(clientlib.InvalidManifestError):
        clientlib.load_manifest(str(path))
