"""onnxruntime sessions with sift's ops in them, and which kernel each of those ran."""

from __future__ import annotations

import json
import mmap
import os
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sift_cli.core.plan import METADATA_KEY, InputSpec, TransformPlan
from sift_cli.core.seeds import generator
from sift_cli.errors import Malformed, ModelError, RuntimeUnavailable, SiftError, Unreadable
from sift_cli.runtime.library import Watch, library_path, watch

if TYPE_CHECKING:
    import onnxruntime

#: The oldest onnxruntime that offers what the ops need: its thread pool to custom ops.
OLDEST = (1, 17)

_watches: weakref.WeakKeyDictionary[Any, Watch] = weakref.WeakKeyDictionary()
_registered: weakref.WeakSet[Any] = weakref.WeakSet()  # session options; a second time is an error in onnxruntime


@dataclass(frozen=True)
class KernelReport:
    """What one sparse op of a session ran.

    Attributes:
        node: The node's name.
        op: Its operator: "SparseConv", "SparseLinearAddRelu".
        kernel: Name of the kernel of its latest run; None where it has not run yet.
        isa: The instruction set of that kernel: "avx512", "avx2" or "portable"; None where it has not run yet.
        runs: How often it ran.
    """

    node: str
    op: str
    kernel: str | None
    isa: str | None
    runs: int


def session(
    model: str | PathLike[str] | bytes,
    *,
    threads: int | None = None,
    library: bool = True,
    options: onnxruntime.SessionOptions | None = None,
) -> onnxruntime.InferenceSession:
    """Open a model in onnxruntime, on the CPU, with sift's ops registered.

    Args:
        model: Path of an ``.onnx`` file, or its bytes.
        threads: Threads within an op; None leaves it to onnxruntime (one a core). Results do not depend on it.
        library: False leaves the native library out: onnxruntime then runs the fallback functions in the model.
        options: Session options to start from. They are changed: ``threads`` and the library are set on them.

    Raises:
        RuntimeUnavailable: No onnxruntime, one older than 1.17, no native library, a ``SIFT_FORCE_ISA`` that does not
            fit, options on which somebody else registered the library, or an op in the model that neither onnxruntime
            nor the library knows.
        Unreadable: There is no such file, or the system refuses it.
        Malformed: The file is not a model that onnxruntime accepts; the sentence is onnxruntime's or the op's own. Or
            it has data outside of its folder.
    """
    ort = _onnxruntime()
    if options is None:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, with the same words; it need not be logged too
    if threads is not None:
        options.intra_op_num_threads = threads
    source: str | bytes = model if isinstance(model, bytes) else str(Path(model))
    if isinstance(source, str):
        _check_readable(source)
    if not library:
        return _open(ort, source, options)
    path = library_path()
    with watch(path) as seen:
        try:
            if options not in _registered:
                options.register_custom_ops_library(path)
                _registered.add(options)
        except Exception as error:
            raise RuntimeUnavailable(f"onnxruntime does not accept {path}: {sentence(error)}") from None
        opened = _open(ort, source, options)
    _watches[opened] = seen
    return opened


def kernels(opened: onnxruntime.InferenceSession) -> tuple[KernelReport, ...]:
    """Which kernel each sparse op of ``opened`` ran, as the library itself recorded it, in order of creation.

    Empty where the session was opened without the library, or by another function than :func:`session`: the model's
    fallback functions then ran, as plain onnxruntime nodes.
    """
    seen = _watches.get(opened)
    return tuple(KernelReport(**entry) for entry in seen.report()) if seen else ()


def random_inputs(
    opened: onnxruntime.InferenceSession,
    batch: int = 1,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, np.ndarray]:
    """Standard normal values for every float input, zeros for integer and bool ones, by name. In a model that sift
    transformed, integers are any that the model takes.

    The first dimension, where it is not fixed, becomes ``batch``, any other that is not fixed what it was in the plan,
    or 1; ``shapes`` has those of some inputs. The values depend on the name, the shape and the seed alone.

    Raises:
        RuntimeUnavailable: An input is not a tensor of numbers.
        ModelError: One does not fit into memory.
    """
    inputs = {}
    specs = _planned_inputs(opened)
    for node, spec in zip(opened.get_inputs(), specs, strict=True):
        dtype = NUMPY.get(node.type)
        if dtype is None:
            raise RuntimeUnavailable(
                f"no random values for input {node.name!r} of type {node.type}", hint="pass the input from a file"
            )
        usual = spec.shape if spec is not None and len(spec.shape) == len(node.shape) else (1,) * len(node.shape)
        free = (batch, *usual[1:])
        shape = [d if isinstance(d, int) else n for d, n in zip(node.shape, free[: len(node.shape)], strict=True)]
        shape = [*(shapes or {}).get(node.name, shape)]
        try:
            if dtype.kind == "i" and spec is not None and spec.high is not None:
                inputs[node.name] = generator(seed, node.name, "input").integers(0, spec.high, shape, dtype)
            elif dtype.kind == "f":
                inputs[node.name] = generator(seed, node.name, "input").standard_normal(shape).astype(dtype)
            else:
                inputs[node.name] = np.zeros(shape, dtype)
        except (MemoryError, ValueError):  # numpy's words for a shape that is too large
            raise ModelError(f"no memory for input {node.name!r} of shape {shape}", hint="give a smaller one") from None
    return inputs


def _planned_inputs(opened: onnxruntime.InferenceSession) -> list[InputSpec | None]:
    """For each input of the model what the plan in it says of it, None where there is no plan."""
    nodes = opened.get_inputs()
    try:
        document = json.loads(opened.get_modelmeta().custom_metadata_map[METADATA_KEY])
        specs = TransformPlan.from_json(document).inputs
    except (KeyError, ValueError, RecursionError):
        return [None] * len(nodes)
    by_name = {spec.name or f"input_{index}": spec for index, spec in enumerate(specs)}
    return [by_name.get("input_0" if node.name == "input" else node.name) for node in nodes]


NUMPY = {
    f"tensor({name})": np.dtype(numpy_name)
    for name, numpy_name in {
        "float16": "float16",
        "float": "float32",
        "double": "float64",
        "bool": "bool",
        **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    }.items()
}


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailable(f"onnxruntime cannot be imported: {error}", hint="pip install onnxruntime") from None
    version = tuple(int(part) for part in re.findall(r"\d+", onnxruntime.__version__)[:2])
    if version < OLDEST:
        raise RuntimeUnavailable(
            f"onnxruntime {onnxruntime.__version__} is too old: sift needs 1.17 or newer",
            hint="pip install -U onnxruntime",
        )
    return onnxruntime


def _check_readable(path: str) -> None:
    """Refuse what the system refuses, and a model with data outside of its folder: onnxruntime 1.17 would read them."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                elsewhere = data.find(b"location") >= 0  # the key under which a tensor names its file
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from None
    if elsewhere:
        from sift_cli.checkpoint.disk import external_files

        external_files(Path(path))


def _open(ort: Any, source: str | bytes, options: Any) -> Any:
    try:  # without its second try, which it announces on the terminal
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except UnicodeDecodeError:
        raise _malformed(source, "its graph", "a name in it is not UTF-8") from None
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime."):
            raise
        raise _refusal(source, error) from None


def _refusal(source: str | bytes, error: Exception) -> SiftError:
    """onnxruntime's exception as one of sift's. Its class says little: all that an op refuses is a RuntimeException."""
    why = sentence(error)
    if "SIFT_FORCE_ISA" in why:
        return RuntimeUnavailable(why, hint="unset SIFT_FORCE_ISA to use the best there is")
    if "Domain already set in registry" in why:
        return RuntimeUnavailable(
            "the session options have sift's library already",
            hint="leave its registration to this function, or open the session with onnxruntime itself",
        )
    if unknown := re.search(r"(\S+?)\(-?\d+\) is not a registered function/op", why):
        return RuntimeUnavailable(
            f"{unknown[1]} is an op that onnxruntime does not know here",
            hint="ops of the domain sift need the native library, others the library of whoever made the model",
        )
    if "Unsupported model IR version" in why or "opset versions. Opset" in why:
        return RuntimeUnavailable(f"onnxruntime is too old for the model: {why}", hint="pip install -U onnxruntime")
    op = re.match(r"(Sparse\w+ node '.*?'): (.*)", why)
    at, why = (op[1], op[2]) if op else ("its graph", why)
    return _malformed(source, at, why)


def _malformed(source: str | bytes, at: str, why: str) -> Malformed:
    return Malformed("the model" if isinstance(source, bytes) else source, at, why)


#: What onnxruntime puts before its sentences: code, stage, and the place in its own source.
_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Exception during initialization: |Load model from .*? failed:"
    r"|This is an invalid model\. |Invalid model\. |Fatal error: "
    r"|\S+\.(?:cc|h):\d+ [^()]*(?:\((?:[^()]|\([^()]*\))*\))+ (?:const )?"
)


#: Of onnxruntime's text, in characters: a name in a model may have any number, and to cut it takes their square.
_LONGEST = 2000


def sentence(error: Exception) -> str:
    return " ".join(_NOISE.sub("", str(error)[:_LONGEST]).split()).rstrip(".")
