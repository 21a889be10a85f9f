"""Zip archives, as PyTorch writes them: tensors stored uncompressed, so that each is one range of the file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from sift_cli.checkpoint import coordinates
from sift_cli.checkpoint._bytes import ByteFile, Window
from sift_cli.errors import CheckpointError, Malformed

MAGIC = b"PK\x03\x04"
#: Bytes that all compressed records of one file may expand to together; the code of the largest models has about 10 MB.
_MAX_INFLATED = 64 * 2**20
#: What helps where the end of a file is missing.
AGAIN = "copy or download it again"
#: Bytes that are inflated at once.
_STEP = 2**24
#: Bytes that a file's directory may have beside an eighth of the file. The 47 bytes of the shortest entry take 650 in
#: memory, and the 120 of one of PyTorch's no more.
_MAX_DIRECTORY = 12 * 2**20
_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    EOFError,
    KeyError,
    IndexError,
)


class Archive:
    """The records of a zip file below its one top folder.

    Raises:
        Malformed: No directory at the end, a name twice, an encrypted record, or records larger than the file can hold.
    """

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        window = Window(file, most=_MAX_DIRECTORY + file.size // 8)
        try:
            entries = _entries(file)
            self._zip = zipfile.ZipFile(window)
            if len(self._zip.infolist()) != entries:
                raise ValueError(f"it has {len(self._zip.infolist())} records and claims {entries}")
        except _ERRORS as error:
            if cut_off(file):
                why = f"it is cut off at byte {file.size}, before the directory that a zip file ends with"
                raise Malformed(file.path, "its end", why, hint=AGAIN) from None
            raise Malformed(file.path, "its zip directory", str(error) or type(error).__name__) from None
        window.most = None
        self._inflated = 0
        self._records: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if info.filename != info.orig_filename:
                raise Malformed(file.path, f"record {info.orig_filename!r}", "its name has a zero in it")
            if info.filename in self._records:
                raise Malformed(file.path, f"record {info.filename!r}", "it is there twice")
            if info.flag_bits & 1:
                raise Malformed(file.path, f"record {info.filename!r}", "it is encrypted")
            self._records[info.filename] = info

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._records)

    def read(self, name: str) -> bytes:
        """:meth:`stored` as bytes."""
        return self.stored(name).tobytes()

    def stored(self, name: str) -> np.ndarray:
        """A record whole, which must be stored uncompressed.

        Its checksum is verified unless it is 0: PyTorch may be told to write none.

        Raises:
            Malformed: It is missing or damaged, see also :meth:`place`.
            CheckpointError: It is compressed.
        """
        start, size = self.place(name)
        data = self._file.read(start, size, f"record {name!r}")
        if self._records[name].CRC not in (0, zlib.crc32(data.data)):
            raise Malformed(self._file.path, f"record {name!r}", "its checksum is another")
        return data

    def inflate(self, name: str) -> bytes:
        """A record whole, which may be compressed, its checksum verified.

        Raises:
            Malformed: It is missing or damaged, or it expands far beyond what such a record holds.
        """
        info = self._inflatable(name)
        self._inflated += info.file_size
        if self._inflated > _MAX_INFLATED:
            raise Malformed(self._file.path, f"record {name!r}", f"it claims to expand to {info.file_size} bytes")
        try:
            return self._zip.read(info)
        except _ERRORS as error:
            raise Malformed(self._file.path, f"record {name!r}", str(error) or type(error).__name__) from None

    def unpacked(self, name: str, count: int | None = None) -> np.ndarray:
        """The first ``count`` bytes of a record that may be compressed; by default all, and its checksum is verified.

        Raises:
            Malformed: It is missing or damaged, or out of proportion to the file.
        """
        info = self._inflatable(name)
        try:
            count = info.file_size if count is None else min(count, info.file_size)
            coordinates.check_size(count, self._file.size)
            data = np.empty(count, np.uint8)
            with self._zip.open(info) as stream:
                for start in range(0, count, _STEP):
                    some = data[start : start + _STEP]
                    read = np.frombuffer(stream.read(some.size), np.uint8)
                    if read.size != some.size:
                        raise ValueError("it ends too early")
                    some[:] = read
        except _ERRORS as error:
            raise Malformed(self._file.path, f"record {name!r}", str(error) or type(error).__name__) from None
        return data

    def place(self, name: str) -> tuple[int, int]:
        """First byte and length of a record that is stored uncompressed.

        Raises:
            Malformed: It is missing, or not where the directory says.
            CheckpointError: It is compressed.
        """
        info = self.info(name)
        at = f"record {name!r}"
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise CheckpointError(
                f"{self._file.path} holds {name!r} compressed, which PyTorch does not write",
                hint="pack the archive again without compression (zip -0)",
            )
        header = self._file.read(info.header_offset, 30, at).tobytes()
        if header[:4] != MAGIC:
            raise Malformed(self._file.path, at, f"no record begins at byte {info.header_offset}")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        if start + info.file_size > self._file.size:
            raise Malformed(self._file.path, at, f"it ends after the file, at byte {start + info.file_size}")
        return start, info.file_size

    def info(self, name: str) -> zipfile.ZipInfo:
        """What the directory says of a record.

        Raises:
            Malformed: Nothing.
        """
        if name not in self._records:
            raise Malformed(self._file.path, f"record {name!r}", "it is missing")
        return self._records[name]

    def _inflatable(self, name: str) -> zipfile.ZipInfo:
        """:meth:`info` of a record that is stored or deflated: of the other methods the standard library expands whole
        blocks, whatever size is claimed, and a megabyte of bzip2 can have 20 GB."""
        info = self.info(name)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointError(f"{self._file.path} holds {name!r} compressed otherwise than by deflate")
        return info


def cut_off(file: ByteFile) -> bool:
    """Whether a zip file lacks what ends its directory."""
    return _end(file) is None


def _end(file: ByteFile) -> int | None:
    """Where the 22 bytes are that end the directory of a zip file; only a comment of 64 KiB at most may follow."""
    tail = min(file.size, 22 + 2**16)
    at = file.read(file.size - tail, tail, "its end").tobytes().rfind(b"PK\x05\x06", 0, max(0, tail - 18))
    return None if at < 0 else file.size - tail + at


def _entries(file: ByteFile) -> int:
    """How many records a zip file says it has.

    The standard library takes the directory that is right before its end, PyTorch that to which the end points. They
    have to be the same, or one file is two archives.

    Raises:
        ValueError: They are not, or there is none.
    """
    end = _end(file)
    if end is None:
        raise ValueError("it has no directory")
    entries, size, start = struct.unpack("<10xHII2x", file.read(end, 22, "its end").tobytes())
    if end >= 20:
        magic, large = struct.unpack("<4s4xQ4x", file.read(end - 20, 20, "its end").tobytes())
        if magic == b"PK\x06\x07":
            end -= 76
            if large != end:
                raise ValueError("its end points to another end")
            entries, size, start = struct.unpack("<32xQQQ", file.read(end, 56, "its end").tobytes())
    if start + size != end:
        raise ValueError(f"it is at byte {start} to {start + size}, and its end at byte {end}")
    return int(entries)


#: The last head and path asked about, and the answer.
_last: tuple[bytes, Path, str] | None = None


def kind(head: bytes, path: Path) -> str | None:
    """What a zip file holds: "torch", "torchscript", "exported", "numpy", "broken", "other"; None if it is no zip file.

    Four readers ask about each file, and the directory of a large archive takes a while to read. The answer is kept
    for the very same ``head`` object, that is, for one opening; time stamps are too coarse to tell a file from its
    successor.
    """
    global _last
    if not head.startswith(MAGIC):
        return None
    last = _last
    if last is None or last[0] is not head or last[1] != path:
        _last = last = (head, path, _kind(path))
    return last[2]


def _kind(path: Path) -> str:
    file = ByteFile(path)
    try:
        names = Archive(file).names
    except CheckpointError:
        return "broken"
    finally:
        file.close()
    below = {name.partition("/")[2] for name in names}
    if "data.pkl" in below:
        return "torchscript" if "constants.pkl" in below else "torch"
    if "archive_format" in below or "serialized_exported_program.json" in names:
        return "exported"
    return "numpy" if all(name.endswith(".npy") for name in names) else "other"


def root(path: Path, names: tuple[str, ...], record: str) -> str:
    """The top folder, with its slash, of the one record ``*/record``.

    Raises:
        Malformed: There is none, or more than one; or two records differ in upper and lower case alone, which PyTorch
            does not tell apart.
    """
    if len({name.lower() for name in names}) < len(names):
        raise Malformed(path, "its zip directory", "two of its names differ in upper and lower case alone")
    found = [name for name in names if name.partition("/")[2] == record]
    if len(found) != 1:
        raise Malformed(path, "its zip directory", f"{len(found)} records are called {record}")
    return found[0].partition("/")[0] + "/"
