"""Runs a model in DeepSparse, in an interpreter that has it and need not have sift: ``python deepsparse_driver.py``.

It reads requests, one JSON object a line, and answers each by one line:

    {"load": "model.onnx", "inputs": "inputs.npz", "outputs": "outputs.npz", "batch": 1, "threads": 2}
        → {"version": "1.8.0", "native": 1.0}     native: share of the operators that run on DeepSparse's own kernels
    {"run": 5}  → {"seconds": [0.012, …]}         of each run

or by {"error": "…"}. The arrays of ``inputs`` are in the order of the model's inputs, called arr_0, arr_1, …; the
outputs of one run are written in the same way. DeepSparse prints to stdout as it likes: it gets stderr for that.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Here lie sift's own modules, which need another Python and other packages.
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
    engine: Any = None
    inputs: list[Any] = []
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "load" in request:
                import deepsparse
                import numpy

                with numpy.load(request["inputs"]) as file:
                    inputs = [file[f"arr_{index}"] for index in range(len(file.files))]
                engine = deepsparse.Engine(request["load"], request["batch"], num_cores=request["threads"])
                numpy.savez(request["outputs"], *engine.run(inputs))
                answer = {"version": deepsparse.__version__, "native": engine.fraction_of_supported_ops}
            else:
                seconds = []
                for _ in range(request["run"]):
                    begin = time.perf_counter()
                    engine.run(inputs, False)
                    seconds.append(time.perf_counter() - begin)
                answer = {"seconds": seconds}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
