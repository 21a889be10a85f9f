"""The bytes of one regular file, read in pieces whose place was checked before."""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sift_cli.errors import Malformed, Unreadable

#: numpy refuses arrays of more dimensions, and so of more bytes, even where one of the dimensions is 0.
_MAX_NDIM = 64
_MAX_BYTES = 2**63 - 1


def most_items(file_bytes: int) -> int:
    """How many things a file may consist of beside the bytes of its tensors: JSON values, instructions of a pickle.

    One byte of a file can ask for 80 bytes of memory that way, and the bound keeps a reader below twice the file and
    200 MB. It allows for 50,000 tensors without a value, since a tensor of PyTorch's takes 30 instructions.
    """
    return 1_500_000 + file_bytes // 64


class ByteFile:
    """A file that is open for reading. Reads go through the open handle, so a file replaced meanwhile does no harm.

    Raises:
        Unreadable: It is missing, empty, not a regular file (a pipe would wait for ever), or the system refuses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                raise Unreadable(path, "it is a folder", hint="name the checkpoint file inside it")
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable(path, "it is not a regular file")
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - close() is the context
        except FileNotFoundError:
            raise Unreadable(path, "there is no such file") from None
        except (OSError, ValueError) as error:
            raise Unreadable(path, getattr(error, "strerror", None) or str(error)) from None
        self.size = status.st_size
        if self.size == 0:
            self.close()
            raise Unreadable(path, "it is empty")

    def read(self, offset: int, count: int, at: str) -> np.ndarray:
        """``count`` bytes from ``offset`` as a new uint8 array.

        Args:
            at: What is read, for the error message.

        Raises:
            Malformed: The file ends before.
            Unreadable: The system fails to read.
        """
        if offset < 0 or count < 0 or offset + count > self.size:
            raise Malformed(self.path, at, f"it needs bytes {offset} to {offset + count} of a file of {self.size}")
        data = np.empty(count, np.uint8)
        view = data.data
        done = 0
        try:
            while done < count:
                # One system call reads at most 2 GiB on Linux. Threads may read at the same time: no position is set.
                step = os.preadv(self._file.fileno(), [view[done:]], offset + done)
                if not step:
                    raise Malformed(self.path, at, f"the file ends at byte {offset + done}")
                done += step
        except OSError as error:
            raise Unreadable(self.path, error.strerror or str(error)) from None
        return data

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[ByteFile]:
    """A :class:`ByteFile` for the checkpoint that the block makes of it; it is closed if that fails.

    Raises:
        Unreadable: See :class:`ByteFile`.
    """
    file = ByteFile(path)
    try:
        yield file
    except BaseException:
        file.close()
        raise


class Window(io.BufferedReader):
    """A :class:`ByteFile` as a buffered stream whose reads never ask for more bytes than there are.

    (The standard library allocates first and reads then, and a length in a hostile file may say 2^60.)

    Attributes:
        most: Bytes that may be asked for at once.
    """

    def __init__(self, file: ByteFile, most: int | None = None) -> None:
        super().__init__(_Raw(file))
        self._size = file.size
        self.most = most

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= io.DEFAULT_BUFFER_SIZE:
            left = max(0, self._size - self.tell())
            size = left if size is None or size < 0 else min(size, left)
            if self.most is not None and size > self.most:
                raise ValueError(f"it has a piece of {size} bytes, and {self.most} are too many")
        return super().read(size)


class _Raw(io.RawIOBase):
    def __init__(self, file: ByteFile) -> None:
        self._source = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        if self._at < 0:
            raise ValueError("a seek to before the file's beginning")
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._source.size - self._at))
        buffer[:count] = self._source.read(self._at, count, f"byte {self._at}").data
        self._at += count
        return count


def checked_shape(shape: object, itemsize: int) -> tuple[int, ...]:
    """``shape`` from a file as a tuple, if an array of it can exist.

    Raises:
        ValueError: It is not a list of non-negative integers, or has too many dimensions or elements.
    """
    if not isinstance(shape, Sequence) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{str(shape)[:60]} is not a shape")
    if len(shape) > _MAX_NDIM:
        raise ValueError(f"it has {len(shape)} dimensions")
    if any(n > _MAX_BYTES for n in shape) or math.prod(n for n in shape if n) * itemsize > _MAX_BYTES:
        raise ValueError("its shape holds more than 2^63 bytes")
    return tuple(shape)


def as_array(data: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Raw little-endian bytes as an array, without a copy.

    Raises:
        ValueError: A byte of a bool is neither 0 nor 1 (numpy's results on such a bool are undefined).
    """
    if dtype == np.bool_ and data.size and data.max() > 1:
        raise ValueError("a bool is neither 0 nor 1")
    return data.view(dtype).reshape(shape)
