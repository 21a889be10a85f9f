"""What moves, what is coloured and what is said, by where it goes: terminals, pipes, closed pipes, ``--quiet``."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file
from typer.testing import Result

from sift_cli.app import app

Sift = Callable[..., Result]
ROOT = Path(__file__).parents[2]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
#: It has a spinner and a table, and is fast.
CHECK = ("check", "w.safetensors", "--max-size", "1kB")
#: It says what it writes.
SAVE = ("check", "w.safetensors", "--baseline", "b.json", "--update-baseline")
#: Styles and colours, of all that terminals are sent.
STYLE = re.compile(rb"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Said:
    code: int
    out: bytes
    err: bytes


class Sink:
    """One end of a program's output: a terminal or a pipe, read to its end in the background."""

    def __init__(self, *, terminal: bool) -> None:
        self._source, self.end = pty.openpty() if terminal else os.pipe()
        self.text = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._source, 65536)
            except OSError:  # how Linux says that nobody has a terminal open any more
                chunk = b""
            if not chunk:
                os.close(self._source)
                return
            self.text += chunk

    def close(self) -> bytes:
        os.close(self.end)
        self._reader.join()
        return self.text


def environment(**more: str) -> dict[str, str]:
    """That of this process without what says how to print, and a terminal of 100 columns."""
    told = {
        "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "GITHUB_ACTIONS", "PYTHONIOENCODING",
        "PYTHONUNBUFFERED",
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in told}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**kept, "PYTHONPATH": path, "PYTHONUTF8": "1", "TERM": "xterm-256color", "COLUMNS": "100", **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"weight": np.zeros((2, 3), np.float32)}, tmp_path / "w.safetensors")
    return tmp_path


@pytest.fixture
def at(folder: Path) -> Callable[..., Said]:
    """``at("oe", "flops", "m.onnx", NO_COLOR="1")``: run sift, with its stdout (o) and stderr (e) on a terminal."""

    def run(terminals: str, *arguments: str, **variables: str) -> Said:
        sinks = [Sink(terminal=name in terminals) for name in "oe"]
        done = subprocess.run(
            [sys.executable, "-m", "sift_cli.app", *arguments], cwd=folder, stdin=subprocess.DEVNULL,
            stdout=sinks[0].end, stderr=sinks[1].end, env=environment(**variables), timeout=120,
        )  # fmt: skip
        return Said(done.returncode, *(sink.close() for sink in sinks))

    return run


def test_a_terminal(at: Callable[..., Said]) -> None:
    said = at("oe", *CHECK)
    assert said.code == 0
    assert b"checking" in said.err
    assert STYLE.search(said.out)
    assert b"allowed" in STYLE.sub(b"", said.out)


def test_nothing_moves_off_a_terminal(at: Callable[..., Said]) -> None:
    piped = at("", *CHECK)
    assert piped.err == b""
    assert b"\x1b" not in piped.out
    seen = at("o", *CHECK)
    assert seen.err == b""
    assert STYLE.search(seen.out)
    asked = at("e", *CHECK)
    assert b"checking" in asked.err
    assert asked.out == piped.out


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_no_color(at: Callable[..., Said], variables: dict[str, str]) -> None:
    said = at("oe", *CHECK, **variables)
    assert b"\x1b" not in said.out
    assert not STYLE.search(said.err)
    assert b"checking" in said.err  # it may move
    assert b"\x1b" not in at("oe", "check", "--help", **variables).out


def test_an_empty_no_color_says_nothing(at: Callable[..., Said]) -> None:
    assert STYLE.search(at("oe", *CHECK, NO_COLOR="").out)


def test_force_color_colours_a_pipe_and_moves_nothing(at: Callable[..., Said]) -> None:
    said = at("", *CHECK, FORCE_COLOR="1")
    assert STYLE.search(said.out)
    assert said.err == b""


def test_a_dumb_terminal(at: Callable[..., Said]) -> None:
    for variables in ({"TERM": "dumb"}, {"TERM": "dumb", "FORCE_COLOR": "1"}):
        said = at("oe", *CHECK, **variables)
        assert b"\x1b" not in said.out
        assert said.err == b""
    assert b"writing" in at("oe", "convert", "w.safetensors", "bar.safetensors").err
    assert at("oe", "convert", "w.safetensors", "none.safetensors", "--to", "dense", TERM="dumb").err == b""


@pytest.mark.parametrize("arguments", [("-q", *CHECK), (*CHECK, "-q"), ("--quiet", *CHECK), (*CHECK, "--quiet")])
def test_quiet(at: Callable[..., Said], arguments: tuple[str, ...]) -> None:
    said = at("oe", *arguments)
    assert said.code == 0
    assert said.err == b""
    assert b"allowed" in STYLE.sub(b"", said.out)


def test_quiet_leaves_errors(at: Callable[..., Said]) -> None:
    said = at("oe", "-q", "inspect", "nowhere.onnx")
    assert (said.code, said.out) == (3, b"")
    assert said.err.startswith(b"error: ")


def test_json_on_a_terminal(at: Callable[..., Said]) -> None:
    said = at("oe", *CHECK, "--json", FORCE_COLOR="1")
    assert said.err == b""
    assert json.loads(said.out)["schema"] == "sift.check/1"


@pytest.mark.usefixtures("folder")
def test_notes(sift: Sift) -> None:
    said = sift(*SAVE)
    assert said.stderr == "wrote b.json\n"
    for quiet in (sift("-q", *SAVE), sift(*SAVE, "--quiet")):
        assert (quiet.exit_code, quiet.stderr, quiet.stdout) == (0, "", said.stdout)
    assert sift(*SAVE).stderr == said.stderr  # the next one is not quiet
    for document in (sift("--json", *SAVE), sift(*SAVE, "--json"), sift("--json", *SAVE, "--json", "-q")):
        assert json.loads(document.stdout)["schema"] == "sift.check/1"
        assert document.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_both(name: str) -> None:
    options = {option for param in COMMANDS[name].params for option in param.opts}
    assert {"--json", "--quiet", "-q"} <= options


@pytest.mark.parametrize(
    "arguments",
    [CHECK, (*CHECK, "--json"), ("inspect", "nowhere.pt", "--json"), ("--help",), ("check", "--help"), ("--version",)],
    ids=["table", "json", "error", "help", "help of a command", "version"],
)
def test_nobody_reads(folder: Path, arguments: tuple[str, ...]) -> None:
    """As under ``sift … | head -0``."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sift_cli.app", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert done.returncode == 141  # 128 + SIGPIPE
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_nobody_reads_errors(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sift_cli.app", "inspect", "nowhere.pt"]
    done = subprocess.run(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=writer, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stdout) == (141, b"")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(CHECK, 9), ((*CHECK, "--json"), 9), (("check", "--help"), 9), (("inspect", "nowhere.pt", "--json"), 3)],
    ids=["table", "json", "help", "error"],
)
def test_what_is_printed_does_not_fit(folder: Path, arguments: tuple[str, ...], code: int) -> None:
    """As on a full disk: the files that the process writes may have no bytes."""

    def no_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    command = [sys.executable, "-m", "sift_cli.app", *arguments]
    with open(folder / "out.txt", "wb") as out:
        done = subprocess.run(
            command, cwd=folder, env=environment(), stdout=out, stderr=subprocess.PIPE, preexec_fn=no_bytes, timeout=120
        )
    said = {3: "cannot read nowhere.pt: there is no such file", 9: "cannot write the standard output: File too large"}
    assert (done.returncode, done.stderr.decode()) == (code, f"error: {said[code]}\n")


def test_pytorch_prints_no_traceback_beside_the_sentence(at: Callable[..., Said], folder: Path) -> None:
    net = "from torch import nn\ndef net(): return nn.Sequential(nn.MaxPool2d(8), nn.Conv2d(3, 8, 1))\n"
    (folder / "small.py").write_text(net)
    said = at("", "transform", "small:net", "--input", "1x3x4x4", "--sparsity", "0.5", "--dry-run")
    assert said.code == 4
    error, *more = said.err.decode().splitlines()
    assert error.startswith("error: forward in Sequential is not supported: it does not run on these inputs (Runtime")
    assert all(line.startswith("hint: ") for line in more)


@pytest.mark.parametrize("arguments", [CHECK, ("--help",), ("inspect", "nowhere.pt", "--json")])
def test_closed_streams(folder: Path, arguments: tuple[str, ...]) -> None:
    """As under ``sift … >&- 2>&-``: it says nothing, and ends as it would."""
    command = [sys.executable, "-m", "sift_cli.app", *arguments]
    wanted = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, timeout=120).returncode
    closed = ["bash", "-c", 'exec "$@" >&- 2>&-', "bash", *command]
    assert subprocess.run(closed, cwd=folder, env=environment(), timeout=120).returncode == wanted


def test_an_encoding_without_the_letters(at: Callable[..., Said]) -> None:
    said = at("", "inspect", "w.safetensors", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert said.code == 0, said.err
    assert b"2\\xd73" in said.out  # 2×3
    said = at("", "inspect", "🦆.pt", "--json", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert json.loads(said.out)["fields"]["path"] == "🦆.pt"


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (("--frob",), "No such option: --frob", "sift --help"),
        (("--frob", "inspect"), "No such option: --frob", "sift --help"),
        (("inspct", "x"), "No such command 'inspct'", "did you mean 'inspect'?"),
        (("frobnicate",), "No such command 'frobnicate'", "sift --help"),
        (("-q",), "Missing command", "sift --help"),
        (("run",), "Missing argument 'MODEL.onnx'", "sift run --help"),
        (("inspect", ""), "an argument is empty, as of a variable that is not set", "sift inspect --help"),
        (("diff", "a.pt", "--arch", ""), "an argument is empty, as of a variable that is not set", "sift diff --help"),
        (("inspect", "x", "--allow-pickles"), "No such option: --allow-pickles", "did you mean --allow-pickle?"),
        (("transform", "x"), "Invalid value for --sparsity: give either --sparsity or --plan", "sift transform --help"),
    ],
)
def test_wrong_usage(sift: Sift, arguments: tuple[str, ...], sentence: str, hint: str) -> None:
    done = sift(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {sentence}\nhint: {hint}\n"
    for given in (("--json", *arguments), (*arguments, "--json")):
        done = sift(*given)
        assert done.exit_code == 2
        assert done.stderr == f"error: {sentence}\nhint: {hint}\n"
        document = json.loads(done.stdout)
        assert (document["error"], document["message"], document["hint"]) == ("UsageError", sentence, hint)


def test_no_arguments(sift: Sift) -> None:
    bare = sift()
    assert bare.exit_code == 2
    assert bare.stdout == sift("--help").stdout
    assert sift("--help").exit_code == 0


def test_a_file_that_is_called_like_an_option(sift: Sift) -> None:
    done = sift("inspect", "--", "--json")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == "error: cannot read --json: there is no such file\n"


def test_the_version(sift: Sift) -> None:
    import sift_cli

    assert sift("--version").stdout == f"sift {sift_cli.__version__}\n"
