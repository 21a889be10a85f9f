"""What a protobuf message takes in memory, before it is parsed: two bytes of it can ask for 350.

The library allocates a struct for every message, however empty, and has no limit but the file. So the fields are walked
over first; tensors' bytes are stepped over, and a model of a thousand nodes takes 20 ms.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

#: Bytes of memory, measured with protobuf 6: of a field, a message, and a tensor with what sift notes of it.
_FIELD, _MESSAGE, _TENSOR = 24, 350, 1600
_SLACK = 150 * 2**20


def check(data: bytes, message: Descriptor) -> None:
    """Refuse a message that takes far more memory than it has bytes.

    Elements of tensors are not counted. (Integers in typed fields take 8 bytes each there, and at least one here.)

    Raises:
        ValueError: It takes more than its size and 150 MB.
    """
    most = len(data) + _SLACK
    if len(data) // 2 * _MESSAGE <= most:
        return
    waiting = [(0, len(data), message)]
    used = 0
    while waiting:
        at, end, kind = waiting.pop()
        fields = _fields(kind)
        while at < end:
            tag, at = varint(data, at)
            wire = tag & 7
            inner, packed = fields.get(tag >> 3, (None, False))
            used += _FIELD
            if wire == 2:
                length, at = varint(data, at)
                if inner is not None:
                    used += _TENSOR if inner.name == "TensorProto" else _MESSAGE
                    waiting.append((at, min(at + length, end), inner))
                elif packed:
                    used += 8 * length
                at += length
            elif wire == 0:
                _, at = varint(data, at)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                break  # a group, which no ONNX model has: the parser may refuse it
            if used > most:
                raise ValueError("it consists of more parts than a model has")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, and where it ends."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at


@cache
def _fields(kind: Descriptor) -> dict[int, tuple[Descriptor | None, bool]]:
    """Number of a field → its message, and whether its elements are numbers other than a tensor's own."""
    tensor = kind.name == "TensorProto"
    return {
        field.number: (
            field.message_type,
            field.cpp_type != field.CPPTYPE_STRING and (not tensor or field.name == "dims"),
        )
        for field in kind.fields
    }
