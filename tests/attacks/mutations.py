"""Damage that knows the container: one random change to the header, record, opcode or field of a valid file.

Changed bytes seldom get past a checksum or a length. These files are packed again, so that what is inside is reached.
Every function takes the bytes, a source of chance, and what damages plain bytes.
"""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import onnx

Damage = Callable[[bytes], bytes]

NUMBERS = (
    *(0, 1, 2, 7, 8, 63, 64, 65, 127, 128, 255, 256, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40),
    *(2**53, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**100, 10**40, -1, -8, -(2**31), -(2**63), -(2**64)),
)
TEXTS = (
    *(
        "",
        ".",
        "..",
        "../secret",
        "/etc/passwd",
        "a\0b",
        "C:\\x",
        "\\\\host\\share",
        "sub\\x",
        "~",
        "x" * 300,
        "ä\u202e\n",
    ),
    *("w", "b", "w.bitmask", "w.values", "w.delta", "__metadata__", "sift.sparse", "sift.version", "1", "2", "bitmask"),
    *(
        "delta",
        "F32",
        "F8_E4M3",
        "BOOL",
        "C128",
        "F4",
        "I64",
        "U8",
        "data.pkl",
        "data/0",
        "byteorder",
        "archive_format",
    ),
    *(
        "torch FloatStorage",
        "torch._utils _rebuild_tensor_v2",
        "os system",
        "storage",
        "cpu",
        "torch.sparse_coo",
        "mask",
    ),
    *("state", "param_groups", "names", "params", "location", "offset", "length", "true", "null", "model.safetensors"),
)


def flip(rng: random.Random) -> Damage:
    """Plain damage: bits flipped, bytes set, pieces cut out, doubled or overwritten with numbers."""

    def damage(data: bytes) -> bytes:
        if not data:
            return rng.randbytes(3)
        at = rng.randrange(len(data))
        end = min(len(data), at + rng.choice((1, 2, 4, 8, 16)))
        match rng.randrange(5):
            case 0:
                return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 1:
                return data[:at] + rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * (end - at) + data[end:]
            case 2:
                return data[:at] + data[end:]
            case 3:
                return data[:at] + data[at:end] * 2 + data[end:]
            case _:
                number = rng.choice(NUMBERS) % 2**64
                return data[:at] + number.to_bytes(8, "little")[: end - at] + data[end:]

    return damage


# JSON


class Pairs(list):
    """A JSON object as its pairs, so that a key may be there twice."""


def dumps(value: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{dumps(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumps, value)) + "]"
    return json.dumps(value)


def json_text(data: bytes, rng: random.Random, damage: Damage) -> bytes:
    try:
        value = json.loads(data, object_pairs_hook=Pairs)
    except ValueError:
        return damage(data)
    return dumps(_json(value, rng)).encode("utf-8", "surrogatepass")


def _json(value: Any, rng: random.Random) -> Any:
    if isinstance(value, str) and value[:1] == "{" and rng.randrange(4):
        return json_text(value.encode(), rng, flip(rng)).decode("utf-8", "replace")
    if not isinstance(value, list) or not value or not rng.randrange(6):
        return _other(value, rng)
    at = rng.randrange(len(value))
    match rng.randrange(8):
        case 0:
            return type(value)(value[:at] + value[at + 1 :])
        case 1:
            return type(value)([*value[:at], value[at], *value[at:]])
        case 2 if isinstance(value, Pairs):
            return Pairs([*value[:at], (rng.choice((*TEXTS, rng.choice(value)[0])), value[at][1]), *value[at + 1 :]])
    item = value[at]
    changed = (item[0], _json(item[1], rng)) if isinstance(value, Pairs) else _json(item, rng)
    return type(value)([*value[:at], changed, *value[at + 1 :]])


def _other(value: Any, rng: random.Random) -> Any:
    match rng.randrange(5):
        case 0:
            return rng.choice(TEXTS)
        case 1:
            return rng.choice((None, True, False, 1.5, float("nan"), float("inf"), [], Pairs(), [value], "\ud800"))
        case 2 if type(value) is int:
            return value + rng.choice((-1, 1, 8, -8))
        case 3:
            return [rng.choice(NUMBERS), rng.choice(NUMBERS)]
        case _:
            return rng.choice(NUMBERS)


def safetensors(data: bytes, rng: random.Random, damage: Damage) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + length], data[8 + length :]
    match rng.randrange(8):
        case 0:
            return damage(data)
        case 1:
            tensors = damage(tensors)
        case 2:
            header = damage(header)
        case _:
            header = json_text(header, rng, damage)
    return struct.pack("<Q", len(header)) + header + tensors


# pickles


def pickles(data: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Pickles one after another, and what follows them."""
    stream = io.BytesIO(data)
    parts: list[list[bytes]] = []
    tail = 0
    try:
        while True:
            starts = [at for _, _, at in pickletools.genops(stream)]
            ends = [*starts[1:], stream.tell()]
            parts.append([data[start:end] for start, end in zip(starts, ends, strict=True)])
            tail = stream.tell()
    except ValueError:
        pass
    if not parts or not rng.randrange(10):
        return data[:tail] + damage(data[tail:])
    part = rng.choices(parts, [len(one) for one in parts])[0]
    at = rng.randrange(len(part))
    match rng.randrange(6):
        case 0:
            del part[at]
        case 1:
            part.insert(at, part[rng.randrange(len(part))])
        case 2:
            part.insert(at, _opcode(rng))
        case 3:
            other = rng.randrange(len(part))
            part[at], part[other] = part[other], part[at]
        case _:
            part[at] = _changed(part[at], rng)
    return b"".join(b"".join(one) for one in parts) + data[tail:]


def _changed(opcode: bytes, rng: random.Random) -> bytes:
    kind = next(pickletools.genops(opcode + b"."))[0].name if opcode[:1] != b"." else "STOP"
    if "INT" in kind or "LONG" in kind:
        return _number(rng)
    if "UNICODE" in kind or "STRING" in kind:
        return _text(rng)
    if kind == "GLOBAL":
        return b"c" + rng.choice(_GLOBALS).replace(" ", "\n").encode() + b"\n"
    return _opcode(rng)


_GLOBALS = (
    *(f"torch._utils _rebuild_{one}" for one in ("tensor", "tensor_v2", "tensor_v3", "parameter", "sparse_tensor")),
    *("torch FloatStorage", "torch BFloat16Storage", "torch BoolStorage", "torch.storage UntypedStorage", "torch Size"),
    *(
        "collections OrderedDict",
        "collections defaultdict",
        "torch.serialization _get_layout",
        "torch int64",
        "os system",
    ),
    *("torch._tensor _rebuild_from_type_v2", "torch Tensor", "numpy ndarray", "argparse Namespace", "builtins eval"),
)


def _number(rng: random.Random) -> bytes:
    number = rng.choice(NUMBERS)
    data = number.to_bytes(20, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _text(rng: random.Random) -> bytes:
    text = rng.choice(TEXTS).encode()
    return b"X" + struct.pack("<I", len(text)) + text


def _opcode(rng: random.Random) -> bytes:
    plain = [bytes([one]) for one in b"(.012NQRabdeolstu}]\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98"]
    reads = [b"h" + bytes([rng.randrange(12)]), b"q" + bytes([rng.randrange(12)])]
    return rng.choice((rng.choice(plain), rng.choice(reads), _number(rng), _text(rng), _changed(b"cx\ny\n", rng)))


# zip


def archive(data: bytes, rng: random.Random, damage: Damage) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            records = [(info.filename, info.compress_type, packed.read(info)) for info in packed.infolist()]
    except Exception:  # whatever was done to it before
        return damage(data)
    if not records or not rng.randrange(10):
        return damage(data)
    weights = [8 if name.endswith((".pkl", ".json", ".py")) else 1 for name, _, _ in records]
    at = rng.choices(range(len(records)), weights)[0]
    name, packing, content = records[at]
    match rng.randrange(12):
        case 0:
            del records[at]
        case 1:
            records.append((name, packing, content))
        case 2:
            records[at] = name, zipfile.ZIP_STORED if packing else zipfile.ZIP_DEFLATED, content
        case 3:
            folder = name.partition("/")[0]
            records[at] = rng.choice((f"{folder}/{rng.choice(TEXTS)}", rng.choice(records)[0])), packing, content
        case _:
            change = pickles if name.endswith(".pkl") else json_text if name.endswith(".json") else None
            records[at] = name, packing, change(content, rng, damage) if change else damage(content)
    return zipped(records)


def zipped(records: list[tuple[str, int, bytes]]) -> bytes:
    """A zip file of names, ways of compression and contents; a name may be there twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, packing, content in records:
            packed.NameToInfo.pop(name, None)  # or it would warn
            info = zipfile.ZipInfo(name)
            info.compress_type = packing
            packed.writestr(info, content)
    return buffer.getvalue()


# tar


def tar(data: bytes, rng: random.Random, damage: Damage) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as packed:
            members = [(info, data[info.offset_data : info.offset_data + info.size]) for info in packed]
        at = rng.randrange(len(members))
        info, content = members[at]
        match rng.randrange(16):
            case 0:
                del members[at]
            case 1:
                members.append(members[at])
            case 2:
                info.name = rng.choice((*TEXTS, "pickle", "tensors", "storages"))
            case 3:
                info.type, info.linkname = rng.choice((b"1", b"2", b"5", b"7", b"L", b"S", b"g", b"x")), "../secret"
            case 4:
                info.size = rng.choice(NUMBERS)
            case 5:
                keys = ("size", "path", "linkpath", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.name", "mtime")
                info.pax_headers = {rng.choice(keys): str(rng.choice((*TEXTS, *NUMBERS)))}
            case 6:
                return damage(data)
            case 7:
                members[at] = info, damage(content)
            case _:
                last = content.rfind(b"\x80\x02") if rng.randrange(2) else 0
                members[at] = info, content[:last] + pickles(content[last:], rng, damage)
                info.size = len(members[at][1])
        packed_again = b"".join(info.tobuf(tarfile.PAX_FORMAT) + blocks(content) for info, content in members)
    except Exception:  # whatever was done to it before
        return damage(data)
    return blocks(packed_again + bytes(1024), 10240)


def blocks(data: bytes, size: int = 512) -> bytes:
    return data + bytes(-len(data) % size)


# ONNX


def onnx_model(data: bytes, rng: random.Random, damage: Damage) -> bytes:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        return damage(data)
    if not rng.randrange(10):
        return damage(data)
    message: Any = model
    while True:
        fields = [(field, value) for field, value in message.ListFields() if field.name != "opset_import"]
        if not fields:
            break
        field, value = rng.choice(fields)
        many = not hasattr(value, "ListFields") and not isinstance(value, str | bytes | int | float)
        if many and (not rng.randrange(4) or field.message_type is None):
            _listed(field, value, rng)
            break
        if field.message_type is None:
            _set(message, field, rng, damage)
            break
        message = rng.choice(list(value)) if many else value
        if message is not model and not rng.randrange(6):
            _set(message, rng.choice([f for f in message.DESCRIPTOR.fields if f.message_type is None]), rng, damage)
            break
    return model.SerializeToString()


def _listed(field: Any, value: Any, rng: random.Random) -> None:
    at = rng.randrange(len(value)) if len(value) else 0
    if field.message_type is not None:
        match rng.randrange(3):
            case 0 if len(value):
                del value[at]
            case 1 if len(value):
                value.add().CopyFrom(value[at])
            case _:
                value.add()
    elif len(value) and rng.randrange(3):
        value[at] = _scalar(field, rng)
    else:
        value.append(_scalar(field, rng))


def _set(message: Any, field: Any, rng: random.Random, damage: Damage) -> None:
    old = getattr(message, field.name)
    if field.type == field.TYPE_BYTES and isinstance(old, bytes) and rng.randrange(3):
        setattr(message, field.name, damage(old))
    elif isinstance(old, str | bytes | int | float):
        setattr(message, field.name, _scalar(field, rng))
    else:
        old.append(_scalar(field, rng))


def _scalar(field: Any, rng: random.Random) -> Any:
    match field.cpp_type:
        case field.CPPTYPE_STRING:
            text = rng.choice((*TEXTS, "w", "i", "w.bin", "./w.bin", "0", "32", "-1", str(2**63)))
            return text.encode() if field.type == field.TYPE_BYTES else text
        case field.CPPTYPE_FLOAT | field.CPPTYPE_DOUBLE:
            return rng.choice((0.0, -1.0, float("nan"), float("inf")))
        case field.CPPTYPE_INT64:
            return rng.choice((rng.randrange(30), rng.choice([n for n in NUMBERS if -(2**63) <= n < 2**63])))
        case field.CPPTYPE_UINT64:
            return rng.choice([n for n in NUMBERS if 0 <= n < 2**64])
        case field.CPPTYPE_ENUM:
            return rng.choice(field.enum_type.values).number
        case _:
            return rng.choice((rng.randrange(30), rng.choice([n for n in NUMBERS if -(2**31) <= n < 2**31])))


# folders


def packed(files: dict[str, bytes]) -> bytes:
    """The files of a folder as one run of bytes; inverse of :func:`unpacked`."""
    return b"".join(name.encode() + b"\0" + struct.pack("<I", len(data)) + data for name, data in files.items())


def unpacked(data: bytes) -> dict[str, bytes]:
    files = {}
    while data:
        name, _, rest = data.partition(b"\0")
        length = int.from_bytes(rest[:4], "little")
        files[name.decode("utf-8", "replace")[:80]] = rest[4 : 4 + length]
        data = rest[4 + length :]
    return files


def folder(data: bytes, rng: random.Random, damage: Damage) -> bytes:
    files = unpacked(data)
    if not files:
        return damage(data)
    name = rng.choice(list(files))
    if not rng.randrange(20):
        files[rng.choice((*files, "model.safetensors", "sift.safetensors"))] = files.pop(name)
    else:
        change = json_text if name.endswith(".json") else safetensors if name.endswith(".safetensors") else archive
        files[name] = change(files[name], rng, damage)
    return packed(files)


#: Reader → what knows its files.
MUTATIONS: dict[str, Callable[[bytes, random.Random, Damage], bytes]] = {
    "safetensors": safetensors,
    "compressed_tensors": safetensors,
    "folder": folder,
    "torch_zip": archive,
    "torch_legacy": pickles,
    "torch_tar": tar,
    "torchscript": archive,
    "exported_program": archive,
    "npz": archive,
    "onnx": onnx_model,
}
