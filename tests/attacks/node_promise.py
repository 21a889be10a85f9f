"""What the native library promises of any model, and how it is watched: each is refused with a sentence that names
the node, or it computes what it means; nothing else happens.

    python node_promise.py FIRST COUNT PROGRESS

attacks a library with the models of so many seeds, and prints how they ended as JSON. Before each, its number is
written to the file PROGRESS: a process that a sanitizer ends, or that took ten seconds for one model, has left it
there.
"""

from __future__ import annotations

import collections
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np
import onnxruntime
from attacks import node_meaning as meaning
from attacks.nodes import Model, attack, forged, name

from sift_cli.errors import Malformed
from sift_cli.runtime import session

SECONDS = 10
LONGEST = 1000  # characters of a sentence


class BrokenPromise(Exception):
    """The library did what it should not."""


def look(seed: int) -> str:
    """Attack with the model of ``seed``; how it ended: "refused", "refused at run", "computed", "too heavy" or "free"
    where nothing was wrong that could be said."""
    if seed % 6 == 0:
        return _look_at_forged(seed)
    model = attack(seed)
    said: type[Exception] | None = None
    try:
        meaning.check_nodes(model)
    except (meaning.Refused, meaning.Unsaid) as why:
        said = type(why)
    try:
        opened = _open(model)
    except Malformed as error:
        if said is None and not _may_refuse_early(model):
            raise BrokenPromise(f"refused: {error.message}") from None
        _check_sentence(model, error.message)
        return "refused"
    if said is meaning.Refused:
        raise BrokenPromise("a session was created")
    endings = {_run(opened, model, feed, strict=said is None) for feed in model.feeds}
    return max(endings)


def _open(model: Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # a sanitizer then sees where each tensor ends
    return session(model.to_onnx(), threads=1 + (len(model.constants) % 2), options=options)


def _may_refuse_early(model: Model) -> bool:
    """Whether onnxruntime may run a node when it creates the session, which then refuses, or tensors are arranged."""
    return meaning.lenient(model) or any(node.inputs[0] in model.constants for node in model.nodes)


def _run(opened: onnxruntime.InferenceSession, model: Model, feed: dict[str, np.ndarray], *, strict: bool) -> str:
    want: meaning.Numbers | None = None
    refuse = False
    try:
        want = meaning.run(model, feed) if strict else None
    except meaning.TooHeavy:
        return "too heavy"
    except meaning.Unsaid:
        pass
    except meaning.Refused:
        refuse = True
    try:
        got = opened.run(None, feed)[0]
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime."):
            raise
        if want is not None and not meaning.lenient(model):
            raise BrokenPromise(f"refused at run: {error}") from None
        _check_sentence(model, str(error))
        return "refused at run"
    if refuse:
        raise BrokenPromise(f"ran, and gave {got.shape}")
    if want is None:
        return "free"
    if wrong := meaning.differ(got, want):
        raise BrokenPromise(wrong)
    return "computed"


def _look_at_forged(seed: int) -> str:
    maker, reader, forge = forged(seed)
    try:
        array = forge(_open(maker).run(None, maker.feeds[0])[0])
        feed = {**reader.feeds[0], reader.nodes[0].inputs[0]: array} | ({"R": array} if seed % 7 == 0 else {})
        reader.feeds = [feed]
        opened = _open(reader)
    except Malformed as error:  # layers that cannot follow each other
        _check_sentence(maker, error.message)
        return "refused"
    return _run(opened, reader, feed, strict=False)


def _check_sentence(model: Model, text: str) -> None:
    if not any(name(index) in text or f"between{index}" in text for index in range(len(model.nodes))):
        raise BrokenPromise(f"no node is named: {text}")
    if len(text) > LONGEST:
        raise BrokenPromise(f"a sentence of {len(text)} characters: {text[:200]}")


def main() -> None:
    first, count, progress = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    endings: collections.Counter[str] = collections.Counter()
    findings: dict[int, str] = {}
    began = time.monotonic()
    slowest = (0.0, 0)
    with open(progress, "wb", buffering=0) as file:
        for seed in range(first, first + count):
            os.pwrite(file.fileno(), b"%20d" % seed, 0)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends the process
            at = time.process_time()
            try:
                endings[look(seed)] += 1
            except Exception as error:
                findings[seed] = f"{type(error).__name__}: {error}"
            slowest = max(slowest, (time.process_time() - at, seed))
    signal.setitimer(signal.ITIMER_PROF, 0)
    done: dict[str, Any] = {
        "endings": endings,
        "findings": findings,
        "seconds": time.monotonic() - began,
        "slowest": slowest,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(done))


if __name__ == "__main__":
    main()
