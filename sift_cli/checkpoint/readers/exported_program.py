"""``torch.export`` (.pt2): a zip file with the graph as JSON and each weight as raw bytes.

Read from its own table of weights and not by ``torch.export.load``, which unpickles what a file says is pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sift_cli.checkpoint import _json, _zip
from sift_cli.checkpoint._bytes import checked_shape, opened
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.strided import Strided, StridedCheckpoint
from sift_cli.core.tensors import DTYPES
from sift_cli.errors import CheckpointError, Malformed

#: torch._export.serde.schema.ScalarType
_DTYPES = {
    1: "U8",
    2: "I8",
    3: "I16",
    4: "I32",
    5: "I64",
    6: "F16",
    7: "F32",
    8: "F64",
    10: "C64",
    11: "C128",
    12: "BOOL",
    13: "BF16",
    28: "U16",
    29: "F8_E4M3",
    30: "F8_E5M2",
    34: "U32",
    35: "U64",
}
_STRIDED_LAYOUT = 7
_WEIGHTS = "data/weights/"
_CONSTANTS = "data/constants/"


def sniff(head: bytes, path: Path) -> bool:
    return _zip.kind(head, path) == "exported"


def open(path: Path) -> Checkpoint:
    with opened(path) as file:
        archive = _zip.Archive(file)
        if "serialized_exported_program.json" in archive.names:
            raise CheckpointError(
                f"{path} was written by torch.export before PyTorch 2.8, whose format keeps the weights in a pickle",
                hint="load it with the PyTorch that wrote it and save its state_dict",
            )
        root = _zip.root(path, archive.names, "archive_format")
        models = [
            name.removeprefix(f"{root}{_WEIGHTS}").removesuffix("_weights_config.json")
            for name in archive.names
            if name.startswith(f"{root}{_WEIGHTS}") and name.endswith("_weights_config.json")
        ]
        if len(models) != 1:
            raise CheckpointError(f"{path} holds {len(models)} exported models, and sift reads files with one")
        weights = _config(archive, f"{root}{_WEIGHTS}{models[0]}_weights_config.json", path)
        constants_record = f"{root}{_CONSTANTS}{models[0]}_constants_config.json"
        constants = _config(archive, constants_record, path) if constants_record in archive.names else {}
        tensors = {name: _tensor(archive, path, name, item, f"{root}{_WEIGHTS}") for name, item in weights.items()}
        if not tensors:
            raise CheckpointError(f"{path}: it holds no parameters and no buffers")
        return StridedCheckpoint(file, "exported_program", tensors, ignored=tuple(constants))


def _config(archive: _zip.Archive, record: str, path: Path) -> dict[str, Any]:
    try:
        data = _json.loads(archive.read(record))
    except ValueError as error:
        raise Malformed(path, f"record {record!r}", str(error)) from None
    config = data.get("config") if isinstance(data, dict) else None
    if not isinstance(config, dict):
        raise Malformed(path, f"record {record!r}", "it is no table of weights")
    return config


def _tensor(archive: _zip.Archive, path: Path, name: str, item: Any, folder: str) -> Strided:
    at = f"tensor {name!r}"
    try:
        meta = item["tensor_meta"]
        if item["use_pickle"] or meta["layout"] != _STRIDED_LAYOUT:
            raise CheckpointError(f"{path}: {at} is a tensor subclass or sparse, which sift does not read")
        if not isinstance(item["path_name"], str) or meta["dtype"] not in _DTYPES:
            raise ValueError(f"its dtype {str(meta['dtype'])[:20]} is none that sift knows")
        dtype = DTYPES[_DTYPES[meta["dtype"]]]
        shape = checked_shape([n["as_int"] for n in meta["sizes"]], dtype.itemsize)
        strides = [n["as_int"] for n in meta["strides"]]
        start, nbytes = archive.place(f"{folder}{item['path_name']}")
        return Strided.placed(dtype, shape, strides, meta["storage_offset"]["as_int"], start, nbytes)
    except (KeyError, TypeError) as error:
        raise Malformed(path, at, f"its entry in the table of weights is incomplete ({error})") from None
    except ValueError as error:
        raise Malformed(path, at, str(error)) from None
