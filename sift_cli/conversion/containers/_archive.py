"""Zip archives of uncompressed members that are laid out before there is any of their data.

No clock and no chance goes into them. Of 4 GB on sizes and offsets are in the ZIP64 fields, as PKWARE's APPNOTE 6.3.9
has them (4.3.7 to 4.5.3).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from sift_cli.errors import ExportError

#: Where the data of a member begins, as in the archives of torch.save: for reads by SIMD and by whole cache lines.
ALIGNMENT = 64
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64, _LOCATOR = b"PK\x06\x06", b"PK\x06\x07"
_PLAIN, _WITH_64 = 20, 45  # version needed to extract
_UTF8, _STORED, _MIDNIGHT, _1980 = 0x800, 0, 0, 0x21
_EXTRA_64, _EXTRA_PADDING = 1, 0x4246
_MAX_16, _MAX_32 = 2**16 - 1, 2**32 - 1
_READABLE = 0o100644 << 16
_UNIX = 3


@dataclass(frozen=True)
class Archive:
    """Where the members are.

    Attributes:
        sizes: Bytes of each member, by name, in the order of the archive.
        places: First byte of each one's data.
        size: Bytes of the whole.
    """

    sizes: Mapping[str, int]
    places: Mapping[str, int]
    size: int

    @classmethod
    def of(cls, sizes: Mapping[str, int]) -> Archive:
        """An archive of members that have so many bytes.

        Raises:
            ExportError: A name cannot be stored.
        """
        places, end = {}, 0
        for name, size in sizes.items():
            try:
                length = len(name.encode())
            except UnicodeEncodeError:
                raise ExportError(f"a zip file cannot hold the name {name!r}: it is no Unicode text") from None
            if length > _MAX_16 or "\0" in name:
                why = "it has a zero byte" if "\0" in name else f"it has {length} bytes"
                raise ExportError(f"a zip file cannot hold the name {name[:40]!r}: {why}")
            places[name] = end + 30 + length + len(_extra(end, length, size))
            end = places[name] + size
        archive = cls(dict(sizes), places, 0)
        return cls(archive.sizes, places, end + len(archive._directory(dict.fromkeys(sizes, 0))))

    def frame(self, checksums: Mapping[str, int]) -> list[tuple[int, bytes]]:
        """All that is not data of members, as (first byte, bytes), for members with these CRC-32."""
        found, end = [], 0
        for name, size in self.sizes.items():
            encoded = name.encode()
            extra = _extra(end, len(encoded), size)
            needed, told = (_WITH_64, _MAX_32) if size >= _MAX_32 else (_PLAIN, size)
            fields = struct.pack(
                "<4s5H3I2H",
                *(_LOCAL, needed, _UTF8, _STORED, _MIDNIGHT, _1980),
                *(checksums[name], told, told, len(encoded), len(extra)),
            )
            found.append((end, fields + encoded + extra))
            end = self.places[name] + size
        return [*found, (end, self._directory(checksums))]

    def _directory(self, checksums: Mapping[str, int]) -> bytes:
        entries, start = [], 0
        for name, size in self.sizes.items():
            encoded = name.encode()
            large = [value for value in (size, size, start) if value >= _MAX_32]
            extra = struct.pack(f"<2H{len(large)}Q", _EXTRA_64, 8 * len(large), *large) if large else b""
            fields = struct.pack(
                "<4s2B5H3I5H2I",
                *(_CENTRAL, _WITH_64, _UNIX, _WITH_64 if large else _PLAIN, _UTF8, _STORED, _MIDNIGHT, _1980),
                *(checksums[name], min(size, _MAX_32), min(size, _MAX_32), len(encoded), len(extra)),
                *(0, 0, 0, _READABLE, min(start, _MAX_32)),
            )
            entries.append(fields + encoded + extra)
            start = self.places[name] + size
        directory = b"".join(entries)
        count, length = len(entries), len(directory)
        end = struct.pack(
            "<4s4H2IH",
            *(_END, 0, 0, min(count, _MAX_16), min(count, _MAX_16), min(length, _MAX_32), min(start, _MAX_32), 0),
        )
        if max(start, length) < _MAX_32 and count < _MAX_16:
            return directory + end
        end64 = struct.pack("<4sQ2H2I4Q", _END64, 44, _WITH_64, _WITH_64, 0, 0, count, count, length, start)
        return directory + end64 + struct.pack("<4sIQI", _LOCATOR, 0, start + length, 1) + end


def _extra(start: int, name: int, size: int) -> bytes:
    """Extra field of a member's header at ``start``: sizes that need 64 bits, and padding up to its data."""
    extra = struct.pack("<2H2Q", _EXTRA_64, 16, size, size) if size >= _MAX_32 else b""
    padding = -(start + 30 + name + len(extra)) % ALIGNMENT
    if 0 < padding < 4:  # it has a header of four bytes itself
        padding += ALIGNMENT
    return extra + (struct.pack("<2H", _EXTRA_PADDING, padding - 4) + bytes(padding - 4) if padding else b"")
