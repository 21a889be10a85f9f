"""CRC-32 of bytes of which the checksums of two halves are known.

A checksum is a polynomial over the field of two elements, modulo P(x) = x^32 + x^26 + … + 1. Bytes that follow the
first half multiply its checksum by x^8 each: crc(a + b) = crc(a)·x^(8·len(b)) + crc(b). The bits of zlib's numbers are
reversed, x^0 the highest one.
"""

from __future__ import annotations

_P = 0xEDB88320
_ONE = 1 << 31


def joined(first: int, second: int, length: int) -> int:
    """The checksum of two strings of bytes one after the other.

    Args:
        first, second: Their checksums, as of ``zlib.crc32``.
        length: Of the second string.
    """
    factor, square = _ONE, _ONE >> 8
    while length:
        if length & 1:
            factor = _product(factor, square)
        square = _product(square, square)
        length >>= 1
    return _product(first, factor) ^ second


def _product(a: int, b: int) -> int:
    result = 0
    while a:
        if a & _ONE:
            result ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_P if b & 1 else 0)
    return result
