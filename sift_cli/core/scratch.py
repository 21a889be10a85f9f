"""A folder beside a target, for what is written and not finished. One process at a time has it.

Its name follows from the target's, so the next writer of a target finds what a killed one left there and removes it.
Whether that writer lives is told by a lock in the folder (``flock``), which the system releases however a process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sift_cli.errors import OutputBusy, OutputUnwritable

SUFFIX = ".sift-tmp"
_LOCK = "lock"
#: What was at the target, while it is replaced where the system cannot swap two names. It outlives a kill.
OLD = "old"
#: Bytes of a name that leave room, in the 255 that a file system takes, for what is put around it.
_LONGEST = 230
#: Locks of this process, by file descriptor.
_held: set[int] = set()


def beside(target: Path, suffix: str = SUFFIX) -> Path:
    """The scratch folder of ``target``, ``.NAME.sift-tmp``."""
    name = os.fsencode(target.name)
    short = target.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()
    return target.parent / f".{short}{suffix}"


@contextlib.contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target`` that is this process's alone during the block, and is removed after it.

    Where a file system has no locks nobody can tell a living writer from a killed one: there each gets a folder of its
    own, and that of a killed one stays.

    Raises:
        OutputBusy: Another process, or thread, is writing ``target``.
        OutputUnwritable: Something that is no such folder of this user's has its name.
        OSError: The system refuses to make it.
    """
    folder, lock = take(beside(target), target)
    try:
        _restore(folder, target)
        empty(folder)
        yield folder
    finally:
        if lock is None or lock in _held:  # else this is a process that was forked meanwhile, and it is not its own
            _restore(folder, target)
            give(folder, lock, keep=False)


def clear(target: Path) -> None:
    """Remove what a killed writer of ``target`` left, and put back what it was about to replace.

    Raises:
        OutputBusy, OutputUnwritable, OSError: As :func:`scratch`.
    """
    if os.path.lexists(beside(target)):
        with scratch(target):
            pass


def take(folder: Path, target: Path) -> tuple[Path, int | None]:
    """Make ``folder``, or take the one that is there as it is, for this process alone.

    Args:
        folder: Beside ``target``.
        target: What it is for.

    Returns:
        The folder, and the lock on it. Where the file system has no locks: another folder, and None.

    Raises:
        OutputBusy, OutputUnwritable, OSError: As :func:`scratch`.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        try:
            _check_owner(folder, target)
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # who had it has just removed it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise OutputBusy(target, hint="wait until it is done, or name another output") from None
        except OSError:
            os.close(lock)
            _remove(folder)
            return Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.")), None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK)):
                _held.add(lock)
                return folder, lock
        os.close(lock)  # of a folder that was removed between open and flock


def give(folder: Path, lock: int | None, *, keep: bool) -> None:
    """Let go of what :func:`take` gave; unless it is to be kept, or nobody could lock it again, it is removed."""
    if lock is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    if not keep:
        empty(folder)
        _remove(folder)
    _held.discard(lock)
    os.close(lock)


def _check_owner(folder: Path, target: Path) -> None:
    """Refuse a folder whose owner could change what is written in it: in /tmp anyone can make one of this name."""
    about = os.lstat(folder)
    # The owner of the folder above can do as much anyhow, and is who owns all where a file system has no owners.
    if not stat.S_ISDIR(about.st_mode) or about.st_uid not in (os.geteuid(), os.stat(folder.parent).st_uid):
        raise OutputUnwritable(target, f"{folder.name} beside it is in the way, and is not of this user's sift")


def _restore(folder: Path, target: Path) -> None:
    if (folder / OLD).exists() and not target.exists():
        os.rename(folder / OLD, target)


def empty(folder: Path) -> None:
    """Remove all that is in a folder but its lock."""
    with contextlib.suppress(FileNotFoundError):  # someone removed it
        for one in os.scandir(folder):
            if one.is_dir(follow_symlinks=False):
                shutil.rmtree(one, ignore_errors=True)
            elif one.name != _LOCK:
                os.unlink(one)


def _remove(folder: Path) -> None:
    """Remove an empty folder; the lock last, for who has it may write there. Another process may be quicker."""
    with contextlib.suppress(OSError):
        os.unlink(folder / _LOCK)
        os.rmdir(folder)


def _let_go() -> None:
    """A lock is of all processes that have the file open: a forked one would hold it when its parent was killed."""
    for lock in _held:
        os.close(lock)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
