"""The steps of a conversion: look at what there is, write it, read it back, and give it its place."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from sift_cli.checkpoint import mask_file, open_checkpoint
from sift_cli.checkpoint._json import loads
from sift_cli.checkpoint.compressed_tensors import plain_config
from sift_cli.checkpoint.folder import MASKS, check_inside, copy_companions
from sift_cli.checkpoint.sparse_metadata import SPARSE_KEY, VERSION_KEY
from sift_cli.conversion.containers import Container, PlannedFile, Tensor
from sift_cli.conversion.encodings import About, Array, Encoded, Encoding
from sift_cli.conversion.filling import checksum, each, store
from sift_cli.conversion.options import Converted, Options, Progress
from sift_cli.conversion.source import Source
from sift_cli.conversion.work import Work
from sift_cli.core.half import STORED, Storage
from sift_cli.core.tensors import TensorSpec
from sift_cli.errors import VerificationFailed

#: Bytes that the name, type, shape and place of an array take beside it: some 100 in a safetensors file and as many in
#: its metadata, 300 in a .npz.
_ABOUT = 256
#: What transformers calls the type that it loads weights in, since its version 5 and before.
_TYPE_KEYS = ("dtype", "torch_dtype")


class Conversion:
    """The steps of one conversion."""

    def __init__(
        self,
        source: Source,
        work: Work,
        encoding: Encoding,
        container: Container,
        options: Options,
        jobs: int,
        progress: Progress,
    ) -> None:
        self._source, self._work, self._encoding, self._container = source, work, encoding, container
        self._options, self._jobs, self._progress = options, jobs, progress
        self._specs = list(source.tensors.values())
        self._total = sum(spec.dense_bytes for spec in self._specs)
        self._least = options.min_sparsity if options.min_sparsity is not None else 0.0 if encoding.OF_ZEROS else None
        self.encoded: dict[str, Encoded] = {}
        self.resumed = 0

    def look(self) -> None:
        """Decide how each tensor is stored. That reads the masks, and of matrices without one the values."""

        def one(spec: TensorSpec) -> dict[str, Any]:
            mask = self._source.mask(spec.name, self._least)
            found = None if mask is None else self._encoding.parts(replace(spec, nonzero=mask.nonzero), mask)
            if found is not None and spec.name not in self._source.masked and not self._worth(found):
                found = None
            return {"encoded": None if found is None else _dumped(found)}

        if self._least is None and not self._source.masked:
            return
        self._each("looking", "look", one, self._source)
        for spec in self._specs:
            if (found := self._work.done["look", spec.name]["encoded"]) is not None:
                self.encoded[spec.name] = _loaded(spec, found)

    def _worth(self, found: Encoded) -> bool:
        takes = found.nbytes + _ABOUT * len(found.parts)
        return self._options.min_sparsity is not None or takes < found.spec.dense_bytes

    def write(self) -> list[PlannedFile]:
        tensors = []
        for spec in self._specs:
            found = self.encoded.get(spec.name)
            arrays = found.parts if found is not None else {spec.name: Array(spec.dtype, spec.shape)}
            whole = found is None or found.whole
            tensors.append(Tensor(spec.name, arrays, (spec.name,) if whole else tuple(arrays)))
        files = self._container.plan(tensors, self._about, self._options.shard_size)
        homes = {stored: file for file in files for stored in file.places}
        self._work.allocate(files)
        self.resumed = sum(("write", spec.name) in self._work.done for spec in self._specs)

        def one(spec: TensorSpec) -> dict[str, Any]:
            found = self.encoded.get(spec.name)
            return store(
                spec.name, self._source, found, self._encoding, homes, self._work, checksums=self._container.CHECKSUMS
            )

        self._each("writing", "write", one, self._source, flush=True)
        sums = {
            part: crc for spec in self._specs for part, crc in self._work.done["write", spec.name]["arrays"].items()
        }
        for file in files:
            for at, data in file.frame(sums):
                self._work.write(file.name, at, data)
        return files

    def _about(self, names: list[str]) -> About:
        """What a file with these tensors says of them: what the source says too, as long as it is true."""
        about = self._encoding.about({name: self.encoded[name] for name in names if name in self.encoded})
        same = self._source.unchanged and self._source.masked == self.encoded.keys()
        same = same and all(one.whole for one in self.encoded.values())
        kept = {
            key: value
            for key, value in self._source.checkpoint.metadata.items()
            if key not in (VERSION_KEY, SPARSE_KEY, mask_file.KEY) and (same or not key.startswith("sift."))
        }
        return replace(about, metadata={**kept, **about.metadata})

    def verify(self) -> None:
        """Read the output as any other checkpoint, and compare the checksum of every tensor and mask.

        Raises:
            VerificationFailed: One differs.
        """
        with open_checkpoint(self._work.content) as written:
            again = Source(written, pruned_nan=self._encoding.IN_NAN)
            if again.tensors.keys() != self._source.tensors.keys():
                name = min(again.tensors.keys() ^ self._source.tensors.keys())
                raise VerificationFailed(f"what was written reads differently: {name!r} is not in both")

            def one(spec: TensorSpec) -> dict[str, Any]:
                values, mask = again.read(spec.name, masked=False)
                masked = spec.name in self.encoded
                found = checksum(values, mask if masked else None)
                if found != self._work.done["write", spec.name]["checksum"] or masked is (mask is None):
                    raise VerificationFailed(f"what was written reads differently: the tensor {spec.name!r}")
                return {}

            self._each("verifying", "verify", one, again)

    def _each(
        self,
        doing: Literal["looking", "writing", "verifying"],
        kind: str,
        do: Callable[[TensorSpec], dict[str, Any]],
        source: Source,
        *,
        flush: bool = False,
    ) -> None:
        """Do a step for each tensor that it is not done for, and journal it."""
        todo = [spec for spec in self._specs if (kind, spec.name) not in self._work.done]
        done = self._total - sum(spec.dense_bytes for spec in todo)
        self._progress(doing, done, self._total)

        def one(spec: TensorSpec) -> None:
            nonlocal done
            facts = do(spec)
            self._work.step(kind, spec.name, nbytes=spec.dense_bytes if flush else 0, **facts)
            with lock:
                done += spec.dense_bytes
                self._progress(doing, done, self._total)

        lock = threading.Lock()
        try:
            each(todo, one, self._jobs, source)
        finally:
            self._work.flush()

    def publish(self, new: Path, files: list[PlannedFile], origin: Path | None) -> None:
        """Give what is written its place in ``new``, a file or an empty folder."""
        if self._options.container != "folder":
            os.replace(self._work.content, new)
            return
        for file in files:
            os.replace(self._work.content / file.name, new / file.name)
        mask_file.write(new / MASKS, {}, {"sift.converted": self._options.encoding})
        if origin is not None:
            copy_companions(origin, new)
            if (origin / "config.json").is_file():
                check_inside(origin / "config.json")
                config = plain_config(loads((origin / "config.json").read_bytes()))
                if self._options.dtype is not None:
                    config = _cast(config, self._options.dtype)
                config = self._encoding.config(config, self.encoded)
                (new / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")

    def result(self, output: Path, *, verified: bool) -> Converted:
        stored = [
            self.encoded[spec.name].nbytes if spec.name in self.encoded else spec.dense_bytes for spec in self._specs
        ]
        return Converted(
            output,
            self._options.encoding,
            len(self._specs),
            len(self.encoded),
            len(self._source.masked - self.encoded.keys()),
            sum(spec.stored_bytes for spec in self._source.checkpoint.tensors.values()),
            sum(stored),
            verified,
            self.resumed,
        )


def _cast(config: Any, dtype: Storage) -> Any:
    """A configuration whose models, it and those in it, are loaded in another type."""
    if isinstance(config, list):
        return [_cast(item, dtype) for item in config]
    if not isinstance(config, dict):
        return config
    types = {str(stored) for stored in STORED.values()}
    return {
        key: str(STORED[dtype]) if key in _TYPE_KEYS and str(item) in types else _cast(item, dtype)
        for key, item in config.items()
    }


def _dumped(encoded: Encoded) -> dict[str, Any]:
    return {**asdict(encoded), "spec": None, "parts": {name: [*part] for name, part in encoded.parts.items()}}


def _loaded(spec: TensorSpec, item: Mapping[str, Any]) -> Encoded:
    parts = {name: Array(dtype, tuple(shape)) for name, (dtype, shape) in item["parts"].items()}
    return Encoded(**{**item, "spec": replace(spec, nonzero=item["nonzero"]), "parts": parts})
