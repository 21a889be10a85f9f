"""An unfinished conversion beside its output: what is written so far, and a journal of it, to go on from."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sift_cli.conversion.containers import PlannedFile
from sift_cli.core.scratch import beside, empty, give, take
from sift_cli.errors import OutputUnwritable

SUFFIX = ".sift-converting"

#: Bytes after which what was written is flushed to the disk, so that the journal may say it is there.
_FLUSH = 2**28


class Work:
    """The folder ``.NAME.sift-converting`` beside an output, which one process works in at a time.

    Its file ``journal`` has one line of JSON a step that is done, after a first one that names the conversion: what
    there is of another conversion, or of a source that has changed since, is removed.

    Args:
        output: What is to be written.
        task: What identifies the conversion, as JSON.

    Attributes:
        content: Where the output grows: a file, or a folder.
        done: The steps that are done, by their kind and the name of their tensor.

    Raises:
        OutputBusy: Another process works in it.
        OutputUnwritable: The system refuses it.
    """

    def __init__(self, output: Path, task: Mapping[str, Any]) -> None:
        self._output = output
        self._mutex = threading.Lock()
        self._files: dict[str, int] = {}
        self._waiting: list[dict[str, Any]] = []
        self._unflushed = 0
        with self._sentence():
            target = output.absolute()
            self._path, self._lock = take(beside(target, SUFFIX), target)
            self.content = self._path / "content"
            head, lines = json.dumps(task, sort_keys=True), list(self._lines())
            if lines[:1] != [head]:
                empty(self._path)
                lines = [head]
            self.done = {(step["step"], step["name"]): step for step in map(json.loads, lines[1:])}
            self._journal = open(self._path / "journal", "w", encoding="utf-8")  # noqa: SIM115 - close() is the context
            self._head = head
            self._rewrite()

    def _lines(self) -> Iterator[str]:
        """What the journal has, to the first line that is torn."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            for line in (self._path / "journal").read_text(encoding="utf-8").splitlines(keepends=True):
                json.loads(line)
                if line.endswith("\n"):
                    yield line[:-1]

    def _rewrite(self) -> None:
        self._journal.seek(0)
        self._journal.truncate()
        self._journal.write("".join(f"{line}\n" for line in (self._head, *map(json.dumps, self.done.values()))))
        self._journal.flush()

    def allocate(self, files: list[PlannedFile]) -> None:
        """Make the files with all of their bytes, so that a full disk is noticed before the work is done.

        Where one of them is not there as it should be, since its process was killed while it gave the output its place,
        what was written counts as not done.

        Raises:
            OutputUnwritable: There is no room for them.
        """
        with self._sentence():
            if not all(self._is_there(file) for file in files):
                self.done = {key: step for key, step in self.done.items() if key[0] == "look"}
                self._rewrite()
            for file in files:
                path = self.content / file.name if file.name else self.content
                path.parent.mkdir(exist_ok=True)
                self._files[file.name] = handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                if os.fstat(handle).st_size != file.size:
                    os.truncate(handle, 0)
                    if file.size and hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(handle, 0, file.size)
                    os.truncate(handle, file.size)

    def _is_there(self, file: PlannedFile) -> bool:
        path = self.content / file.name if file.name else self.content
        return path.is_file() and path.stat().st_size == file.size

    def write(self, file: str, at: int, data: Any) -> None:
        """Put bytes in their place.

        Raises:
            OutputUnwritable: The system refuses.
        """
        view = memoryview(data).cast("B")
        with self._sentence():
            while view:
                count = os.pwrite(self._files[file], view, at)
                view, at = view[count:], at + count

    def step(self, kind: str, name: str, *, nbytes: int = 0, **facts: Any) -> None:
        """Journal a step of a tensor, as soon as the ``nbytes`` that it has written are on the disk."""
        with self._mutex:
            self._waiting.append({"step": kind, "name": name, **facts})
            self._unflushed += nbytes
            if not nbytes or self._unflushed >= _FLUSH:
                self._flush()

    def flush(self) -> None:
        """Journal all that is waiting for the disk."""
        with self._mutex:
            self._flush()

    def _flush(self) -> None:
        with self._sentence():
            if self._unflushed:
                for handle in self._files.values():
                    os.fdatasync(handle)
            self._unflushed = 0
            for step in self._waiting:
                self.done[step["step"], step["name"]] = step
                self._journal.write(json.dumps(step) + "\n")
            self._waiting.clear()
            self._journal.flush()

    def close(self, *, keep: bool) -> None:
        """Let go of it; with ``keep`` somebody may go on with it later."""
        with contextlib.suppress(OSError):  # a full disk was reported before
            self._journal.close()
        for handle in self._files.values():
            os.close(handle)
        give(self._path, self._lock, keep=keep)

    @contextlib.contextmanager
    def _sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputUnwritable(self._output, error.strerror or str(error)) from None
