"""The native library: where it is, and the C functions by which it reports."""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sift_cli.errors import RuntimeUnavailable

#: The environment variable that names another library than the installed one.
ENVIRONMENT = "SIFT_LIBRARY"

_FILE_NAME = {"win32": "sift_ops.dll", "darwin": "libsift_ops.dylib"}.get(sys.platform, "libsift_ops.so")
_tokens = itertools.count(1)


def library_path() -> str:
    """Path of the native library, for ``SessionOptions.register_custom_ops_library``.

    It is the file ``SIFT_LIBRARY`` names where that is set, else the one installed beside this module.

    Raises:
        RuntimeUnavailable: There is no such file.
    """
    forced = os.environ.get(ENVIRONMENT)
    path = Path(forced) if forced else Path(__file__).with_name(_FILE_NAME)
    if path.is_file():
        return str(path.resolve())
    if forced:
        raise RuntimeUnavailable(
            f"{ENVIRONMENT} names {forced}, which is not a file", hint=f"unset {ENVIRONMENT} to use the installed one"
        )
    raise RuntimeUnavailable(
        f"the native library {_FILE_NAME} is not installed beside {Path(__file__).parent}",
        hint=f"install sift with pip, which builds it, or point {ENVIRONMENT} at a built one",
    )


@functools.cache
def _load(path: str) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(path)
        library.sift_available_isas.restype = ctypes.c_char_p
        library.sift_watch.argtypes = [ctypes.c_uint64]
        library.sift_watch.restype = None
        library.sift_report.argtypes = [ctypes.c_uint64, ctypes.c_char_p, ctypes.c_size_t]
        library.sift_report.restype = ctypes.c_size_t
        library.sift_cpu.restype = ctypes.c_char_p
        library.sift_plans.argtypes = [
            ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_size_t
        ]  # fmt: skip
        library.sift_plans.restype = ctypes.c_size_t
    except (OSError, AttributeError) as error:
        raise RuntimeUnavailable(
            f"{path} is not a library of sift that this machine can load: {error}",
            hint=f"build it on this machine, or unset {ENVIRONMENT}",
        ) from None
    return library


def available_isas() -> tuple[str, ...]:
    """Instruction sets that the library and this processor both have, best first: the values of ``SIFT_FORCE_ISA``.

    Raises:
        RuntimeUnavailable: There is no library, or it does not load.
    """
    text: bytes = _load(library_path()).sift_available_isas()
    return tuple(text.decode().split(","))


def peak_gflops() -> float | None:
    """10⁹ float32 operations a second that one core does at the best, measured now: multiplications and additions in
    registers alone, by the instruction set that the kernels use. None where the library cannot tell.

    Raises:
        RuntimeUnavailable: There is no library, or it does not load.
    """
    measure = getattr(_load(library_path()), "sift_peak_gflops", None)
    if measure is None:
        return None
    measure.restype = ctypes.c_double
    return float(measure()) or None


def cpu() -> str:
    """This processor as plans name it, with the instruction set that kernels use: "GenuineIntel/6/143/avx512".

    Raises:
        RuntimeUnavailable: There is no library, or it does not load.
    """
    text: bytes = _load(library_path()).sift_cpu()
    return text.decode()


def plans(shape: Sequence[int], kept: int) -> list[str]:
    """Ways to compute a layer here, as texts for the attribute ``plan`` of its node: first the usual one, then others,
    the likely ones first.

    Args:
        shape: inputs, outputs, rows; or channels, height, width, filters, kernel (down, across), strides, dilations,
            pads (top, left, bottom, right), groups, images.
        kept: Kept weights.

    Raises:
        RuntimeUnavailable: There is no library, or it does not load.
    """
    library, numbers = _load(library_path()), (ctypes.c_int64 * len(shape))(*shape)
    return _json(lambda out, size: library.sift_plans(numbers, len(shape), kept, out, size))


def _json(write: Callable[[Any, int], int]) -> list[Any]:
    """What the library writes in JSON."""
    size = write(None, 0)
    while True:
        text = ctypes.create_string_buffer(size)
        need = write(text, size)
        if need <= size:  # a run between the two calls may have made a report longer
            return list(json.loads(text.value.decode(errors="replace")))
        size = need


class Watch:
    """The op instances that one session created, as the library lists them while the session lives."""

    def __init__(self, library: ctypes.CDLL, token: int) -> None:
        self._library = library
        self._token = token

    def report(self) -> list[dict[str, Any]]:
        """The library's own account, one entry a living op instance, in order of creation (see ``sift.h``)."""
        return _json(lambda out, size: self._library.sift_report(self._token, out, size))


@contextmanager
def watch(path: str) -> Iterator[Watch]:
    """Mark the op instances this thread creates within the ``with`` block.

    Raises:
        RuntimeUnavailable: The library does not load.
    """
    library = _load(path)
    token = next(_tokens)
    library.sift_watch(token)
    try:
        yield Watch(library, token)
    finally:
        library.sift_watch(0)
