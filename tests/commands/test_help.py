"""``--help``: every option says what it does, every command shows how it is used, and what it shows parses."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import Result

from sift_cli.app import app

Sift = Callable[..., Result]
ROOT = Path(__file__).parents[2]
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
COLUMNS = 100


def shown(name: str) -> list[str]:
    """The examples in the help of a command."""
    return re.findall(r"^ {4}(sift .*)$", COMMANDS[name].help.partition("Examples:")[2], re.MULTILINE)


def written() -> list[tuple[str, str]]:
    """The command lines in the documentation, each with the page that it is on; one page is about plug-ins of the
    reader's."""
    pages = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "adding-a-plugin.md"})]
    lines = [(page.name, line) for page in pages for line in re.findall(r"^ {4}(sift .*)$", page.read_text(), re.M)]
    return [(page, line) for page, line in lines if not line.endswith("\\")]


def parse(line: str) -> None:
    """Let the parser of its command have a command line, and run nothing."""
    words = shlex.split(line, comments=True)
    ends = [words.index(word) for word in ("&&", "|", ">", "||") if word in words]
    _, *arguments = words[: min(ends, default=len(words))]
    context = GROUP.make_context("sift", arguments)
    name, command, rest = GROUP.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples(name: str) -> None:
    examples = shown(name)
    assert examples
    for line in examples:
        assert line.split()[1] == name
        parse(line)


@pytest.mark.parametrize(("page", "line"), written())
def test_command_lines_in_the_documentation(page: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize("line", ["sift inspect m.pt --frob", "sift frob m.pt", "sift export m.pt", "sift flops a b"])
def test_what_does_not_parse(line: str) -> None:
    with pytest.raises(typer.BadParameter.__bases__[0]):
        parse(line)


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_every_option_says_what_it_does(name: str | None) -> None:
    for param in (GROUP if name is None else COMMANDS[name]).params:
        assert getattr(param, "hidden", False) or param.help.endswith((".", ".)")), param.name


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_it_fits(sift: Sift, monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    """Into 100 columns, with every option, every example and every name of a command whole."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    page = sift(*([name] if name else []), "--help").stdout
    assert max(map(len, page.splitlines())) <= COLUMNS
    command = GROUP if name is None else COMMANDS[name]
    for param in command.params:
        if param.param_type_name == "option" and not param.hidden:
            for option in (*param.opts, *param.secondary_opts):
                assert re.search(rf"(?<![-\w]){re.escape(option)}(?![-\w])", page), option
    for line in shown(name) if name else COMMANDS:
        assert re.search(rf"^[ │]+{re.escape(line)}(?= |$)", page, re.MULTILINE), line


def completed(*words: str) -> list[str]:
    """What bash is told after ``sift WORDS`` when tab is pressed."""
    asked = {"_SIFT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("sift", *words)), "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        [sys.executable, "-m", "sift_cli.app"], env={**os.environ, "PYTHONPATH": str(ROOT), **asked},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_completion() -> None:
    assert set(completed("de")) == {"demo", "densify"}
    assert {"--count", "--counter"} <= set(completed("flops", "m.pt", "--cou"))
    assert set(completed("flops", "m.pt", "--count", "paper")) == {"paper-gpt"}


def test_completion_is_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sift_cli.app", "--install-completion", "bash"],
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        },
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "_SIFT_COMPLETE=complete_bash" in (tmp_path / ".bash_completions" / "sift.sh").read_text()
    assert "sift.sh" in (tmp_path / ".bashrc").read_text()
