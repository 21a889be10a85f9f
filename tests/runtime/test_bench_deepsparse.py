"""DeepSparse in its own interpreter: the protocol, against a module of that name that only pretends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from sift_cli.errors import RuntimeUnavailable
from sift_cli.runtime.remote import ENVIRONMENT, DeepSparse

#: What DeepSparse has of an Engine as far as it is used, noisy on stdout as the real one. A "model" says what it does.
FAKE = """
import json, os, sys
import numpy

__version__ = "9.9"
sys.stdout.write("DeepSparse, Copyright\\n")
os.system("echo from below python")

class Engine:
    fraction_of_supported_ops = 0.75

    def __init__(self, model, batch_size=1, num_cores=None):
        with open(model) as file:
            self.orders = json.load(file)
        if "refuse" in self.orders:
            raise ValueError("no\\nsuch  model")
        environment = {name: value for name, value in os.environ.items() if name.startswith("NM_")}
        self._note({"batch": batch_size, "cores": num_cores, "environment": environment,
                    "path": [part for part in sys.path if part.endswith("runtime")]})

    def run(self, inputs, val_inp=True):
        self._note({"run": [list(array.shape) for array in inputs], "contiguous": inputs[0].flags.c_contiguous})
        if "die" in self.orders and not val_inp:
            sys.stderr.write("first\\nout of luck\\n")
            os._exit(3)
        print("noise")
        return [inputs[0].sum(axis=1), inputs[-1]]

    def _note(self, what):
        with open(self.orders["log"], "a") as file:
            file.write(json.dumps(what) + "\\n")
"""
X, Y = np.arange(6, dtype=np.float32).reshape(3, 2).T, np.ones((2, 5), np.int64)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this interpreter's children find the fake; the interpreter is named in the environment."""
    (tmp_path / "deepsparse.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv(ENVIRONMENT, sys.executable)
    return tmp_path


def model(folder: Path, **orders: bool) -> Path:
    path = folder / "model.json"
    path.write_text(json.dumps({"log": str(folder / "log"), **orders}))
    return path


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def test_a_model_is_loaded_and_run_as_often_as_asked(fake: Path) -> None:
    peer = DeepSparse("them", model(fake), {"x": X, "y": Y}, threads=3, expected=[X.sum(axis=1), Y])
    try:
        assert (peer.name, peer.samples, peer.native) == ("them", 2, 0.75)
        assert peer.engine == "DeepSparse 9.9, 75% of the operators its own"
        assert peer.difference == 0
        for runs in (4, 1):
            seconds = peer.run(runs)
            assert len(seconds) == runs
            assert all(0 <= one < 60 for one in seconds)
    finally:
        peer.close()
    loaded, *runs = log(fake)
    assert (loaded["batch"], loaded["cores"]) == (2, 3)
    assert loaded["environment"].items() >= {"NM_DISABLE_ANALYTICS": "1", "NM_VERSION_CHECK": "false"}.items()
    assert loaded["path"] == []  # sift's own modules are not in the way of others
    assert runs == [{"run": [[2, 3], [2, 5]], "contiguous": True}] * 6  # one for the outputs


def test_outputs_are_compared(fake: Path) -> None:
    peer = DeepSparse("them", model(fake), {"x": X, "y": Y}, threads=1, expected=[X.sum(axis=1), 2 * Y])
    peer.close()
    assert peer.difference == 0.5


def test_closing_ends_the_process(fake: Path) -> None:
    peer = DeepSparse("them", model(fake), {"x": X}, threads=None)
    process = peer._process
    assert process.poll() is None
    peer.close()
    assert process.returncode is not None
    assert log(fake)[0]["cores"] is None


def test_no_interpreter_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(RuntimeUnavailable, match="in an interpreter of its own, and none is named") as caught:
        DeepSparse("them", tmp_path, {"x": X}, threads=1)
    assert "--peer-python" in str(caught.value.hint)


@pytest.mark.parametrize("python", ["absent/python", "."])
def test_the_interpreter_cannot_be_run(tmp_path: Path, python: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"cannot run .*: (No such file|Permission denied)"):
        DeepSparse("them", tmp_path, {"x": X}, threads=1, python=python)


def test_the_interpreter_has_no_deepsparse(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="No module named 'deepsparse'") as caught:
        DeepSparse("them", tmp_path, {"x": X}, threads=1, python=sys.executable)
    assert "pip install deepsparse" in str(caught.value.hint)


def test_it_refuses_the_model_in_one_sentence(fake: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"^DeepSparse: ValueError: no such model$"):
        DeepSparse("them", model(fake, refuse=True), {"x": X}, threads=1)


def test_it_dies_in_a_run(fake: Path) -> None:
    peer = DeepSparse("them", model(fake, die=True), {"x": X}, threads=1)
    with pytest.raises(RuntimeUnavailable, match=r"^DeepSparse ended: out of luck$"):
        peer.run(2)
    peer.close()
