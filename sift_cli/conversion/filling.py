"""Tensor by tensor from the source to its place in the output, several at a time, in bounded memory."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

import numpy as np

from sift_cli.conversion.containers import PlannedFile
from sift_cli.conversion.encodings import Encoded, Encoding
from sift_cli.conversion.source import Source
from sift_cli.conversion.work import Work
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import TensorSpec
from sift_cli.errors import ExportError

#: Bytes that are checksummed and written at once.
_CHUNK = 2**24
#: Bytes beside those of two tensors; all together, with the program itself, may take 300 MB more than these.
_SPARE = 2**26
#: Told after each tensor how many bytes of it, dense, are done.
Progress = Callable[[int], None]


def each(specs: Sequence[TensorSpec], do: Callable[[TensorSpec], None], jobs: int, source: Source) -> None:
    """Do something with every tensor, ``jobs`` at a time, as long as reading those takes no more memory than the two
    largest tensors have bytes.

    Args:
        specs: The tensors, in the order in which they are begun.
        do: What to do; it runs in a thread.
        jobs: Threads.
        source: Where the tensors are read.
    """
    memory = _Memory(_SPARE + sum(sorted(source.size(spec.name) for spec in specs)[-2:]))
    stop = threading.Event()

    def one(spec: TensorSpec) -> None:
        with memory.of(source.takes(spec.name)):
            if not stop.is_set():
                do(spec)

    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(one, spec) for spec in specs]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # also for a KeyboardInterrupt, which comes to this thread alone
            for future in running:
                future.cancel()
        for future in running:
            if not future.cancelled():
                future.result()


class _Memory:
    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, count: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + count <= self._limit)
            self._used += count
        try:
            yield
        finally:
            with self._changed:
                self._used -= count
                self._changed.notify_all()


def store(
    name: str,
    source: Source,
    encoded: Encoded | None,
    encoding: Encoding,
    homes: Mapping[str, PlannedFile],
    work: Work,
    *,
    checksums: bool,
) -> dict[str, object]:
    """Write one tensor to its places.

    Raises:
        ExportError: It would be read back otherwise.

    Returns:
        The checksum of the tensor, and those of its arrays if they are wanted.
    """
    values, mask = source.read(name, masked=encoded is not None)
    total = checksum(values, mask if encoded is not None else None)
    if encoded is None:
        if encoding.IN_NAN and source.tensors[name].is_floating_point and np.isnan(values).any():
            raise ExportError(f"{name!r} has NaN and no mask, and NaN would be one", hint="use --to mask")
        pieces: Iterable[tuple[str, np.ndarray]] = [(name, values)]
    else:
        assert mask is not None
        pieces = encoding.encode(encoded, values, mask)
    ends: dict[str, int] = {}
    sums = dict.fromkeys([name] if encoded is None else encoded.parts, 0) if checksums else {}
    for part, piece in pieces:
        at = ends.get(part, homes[part].places[part])
        for data in _bytes(piece):
            work.write(homes[part].name, at, data)
            at += len(data)
            if checksums:
                sums[part] = zlib.crc32(data, sums[part])
        ends[part] = at
    return {"checksum": total, "arrays": sums}


def checksum(values: np.ndarray, mask: Mask | None) -> int:
    """CRC-32 of a tensor's bytes and those of its mask."""
    result = 0
    for data in _bytes(values):
        result = zlib.crc32(data, result)
    return zlib.crc32(mask.bits.data, result) if mask is not None else result


def _bytes(array: np.ndarray) -> Iterator[memoryview]:
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].data
