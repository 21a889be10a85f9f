"""DeepSparse as a peer. It needs an interpreter of its own: it is for Python 3.11 at the newest, and for numpy 1."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sift_cli.errors import RuntimeUnavailable
from sift_cli.runtime.peers import difference, samples

#: The environment variable that names the interpreter.
ENVIRONMENT = "SIFT_PEER_PYTHON"
_DRIVER = Path(__file__).with_name("deepsparse_driver.py")
#: DeepSparse reports home, and asks there for newer versions, unless told not to.
_QUIET = {"NM_DISABLE_ANALYTICS": "1", "NM_VERSION_CHECK": "false"}
_INSTALL = "python3.11 -m venv ds && ds/bin/pip install deepsparse==1.8.0, then --peer-python ds/bin/python"


class DeepSparse:
    """A model in DeepSparse, in a process that lives until :meth:`close`: a :class:`~sift_cli.runtime.bench.Peer`.

    Args:
        name: What the user calls it.
        model: The ONNX file, with fixed shapes.
        inputs: Arrays by name, in the order of the model's inputs.
        threads: Cores to use; None for all there are.
        python: The interpreter; None takes the one that ``SIFT_PEER_PYTHON`` names.
        expected: What the outputs should be, where that is known.

    Attributes:
        native: Share of the model's operators that run on DeepSparse's own kernels; the rest it leaves to an
            onnxruntime inside it.
        difference: Between the outputs and what was expected, see :func:`~sift_cli.runtime.peers.difference`.

    Raises:
        RuntimeUnavailable: No interpreter, none with DeepSparse in it, or one that does not take the model.
    """

    def __init__(
        self,
        name: str,
        model: Path,
        inputs: Mapping[str, np.ndarray],
        *,
        threads: int | None,
        python: str | None = None,
        expected: Sequence[np.ndarray] | None = None,
    ) -> None:
        interpreter = python or os.environ.get(ENVIRONMENT)
        if not interpreter:
            raise RuntimeUnavailable("DeepSparse runs in an interpreter of its own, and none is named", hint=_INSTALL)
        self.name = name
        self.samples = samples(inputs)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        try:
            self._process = subprocess.Popen(
                [interpreter, str(_DRIVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, **_QUIET},
                text=True,
            )
        except OSError as error:
            self._log.close()
            raise RuntimeUnavailable(f"cannot run {interpreter}: {error.strerror}", hint=_INSTALL) from None
        try:
            with tempfile.TemporaryDirectory() as folder:
                fed, got = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
                np.savez(fed, *(np.ascontiguousarray(array) for array in inputs.values()))
                files = {"load": str(model), "inputs": str(fed), "outputs": str(got)}
                loaded = self._ask({**files, "batch": self.samples, "threads": threads})
                with np.load(got) as file:
                    outputs = [file[f"arr_{index}"] for index in range(len(file.files))]
        except BaseException:
            self.close()
            raise
        self.difference = difference(outputs, expected)
        self.native = float(loaded["native"])
        self.engine = f"DeepSparse {loaded['version']}, {self.native:.0%} of the operators its own"

    def run(self, runs: int) -> Sequence[float]:
        seconds: list[float] = self._ask({"run": runs})["seconds"]
        return seconds

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            raise RuntimeUnavailable(f"DeepSparse ended: {lines[-1] if lines else 'it said nothing'}") from None
        if "error" in answer:
            missing = answer["error"].startswith(("ModuleNotFoundError", "ImportError"))
            raise RuntimeUnavailable(f"DeepSparse: {answer['error']}", hint=_INSTALL if missing else None)
        return dict(answer)
