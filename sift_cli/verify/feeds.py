"""Random inputs that an ONNX model of unknown making accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnxruntime import InferenceSession

from sift_cli.core.seeds import generator
from sift_cli.errors import ExportError
from sift_cli.runtime.sessions import NUMPY, sentence

Feed = dict[str, np.ndarray]

#: Sizes to try for axes that a model leaves open: rows of an image that 32 divides or of a larger one, tokens, one, a
#: second of sound.
_SIZES = (64, 224, 16, 1, 16000)
_BATCHES = (1, 3)
#: What integers are below, if the model bears it: words of a vocabulary, levels of a byte, kinds of tokens.
_ENDS = (1000, 256, 2)
#: No input of more elements is tried.
_MOST = 2**24


def feeds(
    run: InferenceSession, *, shape: tuple[int, ...] | None = None, arrays: Mapping[str, np.ndarray] | None = None
) -> list[Feed]:
    """Inputs for which ``run`` computes finite numbers, one feed for each batch size that it takes.

    Floats are standard normal. Integers and bools are ones, or random where the model bears it.

    Args:
        run: The model.
        shape: Shape of the inputs that have as many axes; without it sizes are tried for what the model leaves open.
        arrays: Inputs by name, taken as they are.

    Raises:
        ExportError: An array has no input, or the model computes nothing finite for anything that was tried.
    """
    nodes = {node.name: node for node in run.get_inputs()}
    given = dict(arrays or {})
    for name in given.keys() - nodes.keys():
        raise ExportError(f"the model has no input {name!r}", hint=f"it has: {', '.join(nodes)}")
    for name in nodes.keys() - given.keys():
        if nodes[name].type not in NUMPY:
            raise ExportError(f"no random values for input {name!r} of type {nodes[name].type}", hint=_HINT)
    why = "none has a size that can be tried"
    for size in _SIZES:
        found: list[Feed] = []
        for batch in _BATCHES:
            drawn = _ones(run, batch, size, shape) | given
            if max((array.size for array in drawn.values()), default=0) > _MOST or any(map(_same(drawn), found)):
                continue
            problem = _problem(run, drawn)
            if problem is None:
                found.append(_varied(run, drawn, given))
            else:
                why = problem
        if found:
            return found
    raise ExportError(f"the model does not run on random inputs: {why}", hint=_HINT)


_HINT = "pass example inputs by --input 1x3x224x224 or --input-npz FILE"


def _same(one: Feed) -> Any:
    return lambda other: all(one[name].shape == other[name].shape for name in one)


def _ones(run: InferenceSession, batch: int, size: int, shape: tuple[int, ...] | None) -> Feed:
    """Floats at random, anything else ones; axes of one name are of one size."""
    sizes: dict[str, int] = {}
    feed = {}
    for node in run.get_inputs():
        if node.type not in NUMPY:
            continue
        axes = []
        for at, axis in enumerate(node.shape):
            free = batch if at == 0 else size
            axes.append(axis if isinstance(axis, int) else sizes.setdefault(axis, free) if axis else free)
        chosen = shape if shape is not None and len(shape) == len(axes) else tuple(axes)
        dtype = NUMPY[node.type]
        if dtype.kind == "f":
            feed[node.name] = generator(batch, node.name, "input").standard_normal(chosen).astype(dtype)
        else:
            feed[node.name] = np.ones(chosen, dtype)
    return feed


def _varied(run: InferenceSession, feed: Feed, given: Mapping[str, np.ndarray]) -> Feed:
    """``feed`` with integers and bools at random, each as large as the model bears it."""
    for name, array in feed.items():
        if array.dtype.kind == "f" or name in given:
            continue
        for end in _ENDS:
            most = min(end, 2 if array.dtype == np.bool_ else np.iinfo(array.dtype).max)
            drawn = generator(0, name, "input").integers(0, most, array.shape).astype(array.dtype)
            if _problem(run, feed | {name: drawn}) is None:
                feed = feed | {name: drawn}
                break
    return feed


def _problem(run: InferenceSession, feed: Feed) -> str | None:
    try:
        outputs = run.run(None, feed)
    except Exception as error:  # onnxruntime's own exceptions share no base
        return sentence(error)
    if all(np.isfinite(array).all() for array in outputs if _is_float(array)):
        return None
    return "its outputs are not finite"


def _is_float(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"
