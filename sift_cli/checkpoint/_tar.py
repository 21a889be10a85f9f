"""Where the members of a plain tar file lie, by its headers alone.

The standard library stops at a header that it cannot read as if the file ended there, follows links, and takes the last
of two members with one name. Here a file has a few members that are known by name, each a file, once, and a full end;
or it is refused. So whatever is read here, the standard library reads the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from sift_cli.checkpoint._bytes import ByteFile
from sift_cli.errors import CheckpointError, Malformed

_BLOCK = 512
#: A tar file is written in records of so many bytes, the last one filled up with zeros.
_RECORD = 20 * _BLOCK
_FILE, _EXTENDED = (b"0", b"\0"), b"x"
#: What an extended header may say of a file; the names of sparse files are not among it. It has a few hundred bytes.
_KEYS = {b"path", b"size", b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname"}
_MOST_EXTENDED = 64 * 1024


def is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def members(file: ByteFile, names: Collection[str]) -> dict[str, tuple[int, int]]:
    """First byte and size of each member.

    Args:
        names: What members may be called.

    Raises:
        CheckpointError: One has another name.
        Malformed: One is there twice or is no file, a header contradicts itself, or the file does not end as tar files
            do.
    """
    found: dict[str, tuple[int, int]] = {}
    extended: dict[bytes, bytes] | None = None
    at = 0
    while True:
        where = f"byte {at}"
        header = file.read(at, _BLOCK, where).tobytes()
        if not any(header) and extended is None:
            _check_end(file, at)
            return found
        try:
            _check_sum(header)
            kind, size = header[156:157], _octal(header[124:136])
            path = b"/".join(filter(None, (_text(header[345:500]), _text(header[:100]))))
            if kind == _EXTENDED and extended is None:
                if size > _MOST_EXTENDED:
                    raise ValueError(f"it has an extended header of {size} bytes")
                extended = _extended(file.read(at + _BLOCK, size, where).tobytes())
            else:
                about = extended or {}
                name = about.get(b"path", path).decode("ascii", "backslashreplace")
                if name not in names:
                    raise CheckpointError(
                        f"{file.path} is a tar file that PyTorch did not write: it has a member {name[:60]!r}",
                        hint="unpack it, and name the checkpoint inside it",
                    )
                if kind not in _FILE or name in found:
                    raise ValueError(f"its member {name!r} is " + ("there twice" if name in found else "no file"))
                size = int(about.get(b"size", size))
                found[name], extended = (at + _BLOCK, size), None
        except ValueError as error:
            raise Malformed(file.path, where, str(error)) from None
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK


def _check_sum(header: bytes) -> None:
    if not is_tar(header) or sum(header[:148] + b" " * 8 + header[156:]) != _octal(header[148:156]):
        raise ValueError("it is no header of a tar file")


def _check_end(file: ByteFile, at: int) -> None:
    """At least two blocks of zeros, up to the end of a record."""
    rest = file.size - at
    if file.size % _RECORD or not 2 * _BLOCK <= rest < 2 * _BLOCK + _RECORD or file.read(at, rest, "its end").any():
        raise Malformed(file.path, "its end", f"it has {file.size} bytes and not the zeros that a tar file ends with")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _octal(field: bytes) -> int:
    if (number := re.fullmatch(rb" *([0-7]+)[ \0]*", field)) is None:
        raise ValueError(f"{field!r} is no octal number")
    return int(number[1], 8)


def _extended(data: bytes) -> dict[bytes, bytes]:
    """The records ``b"<length> <key>=<value>\\n"`` of an extended header; the length is that of the record."""
    found: dict[bytes, bytes] = {}
    while data:
        head = re.match(rb"([1-9][0-9]{0,4}) ([a-z]+)=", data)
        length = int(head[1]) if head else 0
        if head is None or not head.end() < length <= len(data) or data[length - 1 : length] != b"\n":
            raise ValueError("its extended header does not consist of records")
        key, value = head[2], data[head.end() : length - 1]
        if key not in _KEYS or key in found or (key == b"size" and not value.isdigit()):
            raise ValueError(f"its extended header has {data[: min(length, 60)]!r}")
        found[key], data = value, data[length:]
    return found
