"""What sift promises of any file, and how it is watched: ``docs/security.md`` in code.

A file is looked at in every way in which sift looks at files without running them. It ends in a checkpoint or in a
:class:`~sift_cli.errors.SiftError`; within ten seconds of the processor; in twice the file's size and 200 MB; no file
outside of the checkpoint's folder is opened, none is changed, and no code of it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.disk import bytes_on_disk
from sift_cli.checkpoint.report import inspect_checkpoint
from sift_cli.checkpoint.sidebands import find
from sift_cli.errors import SiftError

SECONDS = 10
SLACK = 200 * 2**20
#: Python's own sources, and the modules that a reader imports when it first needs them.
_CODE = tuple(
    {
        os.path.realpath(p) + os.sep
        for p in (*sysconfig.get_paths().values(), *filter(None, sys.path))
        if p != os.getcwd()
    }
    | {os.path.realpath(Path(__file__).parents[2] / "sift_cli") + os.sep}
)
#: What only a program does that has begun to run what is in a file.
_RUNS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.",
    "pickle.find_class",
    "socket.",
    "ctypes.dlopen",
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.link",
    "os.symlink",
    "os.chmod",
    "shutil.",
)


class BrokenPromise(Exception):
    """A file made sift do what it promises not to do."""


def look(path: Path) -> None:
    """Everything that sift does with a file before it is asked to run it."""
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.tensors:
            for ask in (checkpoint.read, checkpoint.mask):
                with contextlib.suppress(SiftError):
                    ask(name)
        for ask in (lambda: json.dumps(inspect_checkpoint(checkpoint).to_json()), lambda: find(checkpoint)):
            with contextlib.suppress(SiftError):
                ask()
        with contextlib.suppress(SiftError):
            bytes_on_disk(path)


def keep(path: Path, folder: Path | None = None, look: Callable[[Path], object] = look) -> SiftError | None:
    """Look at a file while it is watched; the error that it was refused with.

    Args:
        path: The file, or a folder.
        folder: What may be opened; by default the file's own folder, or ``path`` where it is one.
        look: What is done with it.

    Raises:
        BrokenPromise: A promise is broken.
        Exception: What is raised in place of a SiftError.
    """
    folder = folder or (path if path.is_dir() else path.parent)
    size = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    with limited(2 * size + SLACK), watched(folder):
        try:
            look(path)
        except SiftError as error:
            return error
    return None


_seen: Callable[[str, tuple], None] | None = None
_hooked = False


def _hook(event: str, args: tuple) -> None:
    if _seen is not None:
        _seen(event, args)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Refuse what happens in the block that is not reading in ``folder``.

    Raises:
        BrokenPromise: A file outside of it is opened, or anything is changed or run.
    """
    global _seen, _hooked
    if not _hooked:
        sys.addaudithook(_hook)  # there is no way to remove one
        _hooked = True
    inside = os.path.realpath(folder) + os.sep
    found: list[str] = []

    def see(event: str, args: tuple) -> None:
        if event == "open":
            if not isinstance(args[0], str | bytes | os.PathLike):
                return  # an open file by its number
            path = os.path.realpath(os.fsdecode(args[0]))
            writes = isinstance(args[1], str) and set(args[1]) & set("wax+")
            if writes or not path.startswith((inside, *_CODE)):
                found.append(f"{path!r} is opened with {args[1]!r}")
        elif event.startswith((*_RUNS, *_CHANGES)):
            found.append(f"{event}{str(args)[:200]}")

    _seen = see
    try:
        yield
    finally:
        _seen = None
        if found:
            raise BrokenPromise("; ".join(found[:3]))


@contextlib.contextmanager
def limited(memory: int) -> Iterator[None]:
    """Run the block with ``memory`` more bytes than the process has, and :data:`SECONDS` of the processor's time.

    Raises:
        BrokenPromise: It needs more.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        has = int(file.read().split()[0]) * resource.getpagesize()

    def late(number: int, frame: object) -> None:
        raise BrokenPromise(f"it takes more than {SECONDS} s")

    handler = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (has + memory, before[1]))
    try:
        yield
    except MemoryError as error:
        raise BrokenPromise(f"it takes more than {memory:,} bytes") from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
