"""Files and folders that appear whole or not at all.

However a process ends, by an error, a signal, ``kill -9`` or a full disk, the target is what it was or what it was to
become. What a killed one has left beside it, the next writer of the same target removes; see
:mod:`sift_cli.core.scratch`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from sift_cli.core.scratch import OLD, SUFFIX, clear, scratch
from sift_cli.errors import OutputExists, OutputUnwritable

#: What a disk says that is full, broken or read-only.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.EPERM, errno.EACCES)
#: Of Linux' ``renameat2``.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse an output before any work is done for it.

    Raises:
        OutputExists: Something is there and ``force`` is False.
        OutputUnwritable: The folder is missing or read-only, or the path is a folder.
        OutputBusy: Another process is writing it.
    """
    with _said_of(path):
        if path.is_dir():
            raise OutputUnwritable(path, "it is a folder")
        if path.exists() and not path.is_file():
            raise OutputUnwritable(path, "it is no regular file")
        target = _target(path)
        if os.path.islink(target):
            raise OutputUnwritable(path, "its symbolic links lead in a circle")
        _check_parent(path, target)
        if path.exists() and not force:
            raise OutputExists(path)
        _check_access(path, target)


@contextlib.contextmanager
def atomic(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path and move what was written there to ``path`` when the block ends, in one step.

    A reader sees the old file or the new one and never a half; when the block raises, there is the old one or none.
    Verification belongs inside the block: a file that fails it never gets its name. So does all the work: another
    process that wants to write ``path`` meanwhile is refused at once.

    A symbolic link stays, and the file it leads to is replaced, as by ``cp``. Of hard links only this name gets the new
    file. The permissions of a file that is replaced are kept, and its owner where the system allows that; a new file's
    follow the umask.

    Raises:
        OutputExists, OutputUnwritable, OutputBusy: See :func:`check_writable`; also when the disk is full.
    """
    path = Path(path)
    check_writable(path, force=force)
    target = _target(path)
    with _written(path, target) as new:
        new.touch()
        mode = new.stat().st_mode
        yield new
        _permit(new, target, mode)
        _sync(new)
        if target.exists() and not force:
            raise OutputExists(path)
        os.replace(new, target)
        _sync_folder(target.parent)


def check_folder(path: Path, *, force: bool, ours: str) -> None:
    """Refuse an output folder before any work is done for it.

    Args:
        path: The folder.
        force: Replace one that sift wrote before.
        ours: Name of the file by which such a one is known: no other folder is ever deleted.

    Raises:
        OutputExists: Something is there and ``force`` is False.
        OutputUnwritable: It is no folder, or none of sift's; or its parent is missing or read-only.
        OutputBusy: Another process is writing it.
    """
    with _said_of(path):
        target = path.absolute()
        _check_parent(path, target)
        _check_replaceable(path, force=force, ours=ours)
        _check_access(path, target)


@contextlib.contextmanager
def atomic_folder(path: Path, *, ours: str, force: bool = False) -> Iterator[Path]:
    """:func:`atomic` for a folder: yield an empty temporary one and give it the name ``path`` in one step.

    A folder that is replaced swaps its name with the new one. Where the system cannot do that, it is renamed before the
    new one is; a process that is killed between the two leaves no folder, and the next one that is to write ``path``
    brings the old one back.

    Raises:
        OutputExists, OutputUnwritable, OutputBusy: See :func:`check_folder`; also when the disk is full.
    """
    path = Path(path).absolute()
    check_folder(path, force=force, ours=ours)
    with _written(path, path) as new:
        new.mkdir()
        mode = new.stat().st_mode
        yield new
        _permit(new, path, mode)
        _sync_all(new)
        _check_replaceable(path, force=force, ours=ours)
        _put(new, path)
        _sync_folder(path.parent)


def _check_parent(path: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise OutputUnwritable(path, f"the folder {target.parent} does not exist")
    clear(target)


def _check_access(path: Path, target: Path) -> None:
    if not os.access(target.parent, os.W_OK):
        raise OutputUnwritable(path, f"the folder {target.parent} is not writable")


def _check_replaceable(path: Path, *, force: bool, ours: str) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise OutputUnwritable(path, "it is no folder")
    if path.is_dir() and any(path.iterdir()):
        if not force:
            raise OutputExists(path)
        if not (path / ours).is_file():
            raise OutputUnwritable(path, "it is a folder that sift did not write")


def _target(path: Path) -> Path:
    """The file that ``path`` leads to."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


@contextlib.contextmanager
def _written(path: Path, target: Path) -> Iterator[Path]:
    """A path that does not exist yet, for what is to become ``target``, which the user calls ``path``."""
    with _said_of(path), scratch(target) as folder:
        new = folder / "new"
        try:
            yield new
        except KeyboardInterrupt as stop:
            if new.exists():
                stop.add_note(f"nothing was written to {path}")
            raise


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Turn what the system says of an output into a sentence; what it says of other files is not the output's fault."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str | bytes | os.PathLike):
            named = os.fsdecode(error.filename)
            ours = SUFFIX in named or Path(named) in (path, _target(path), path.parent)
        else:
            ours = error.errno in _OF_THE_DISK
        if not ours:
            raise
        raise OutputUnwritable(path, error.strerror or str(error)) from None


def _permit(new: Path, there: Path, mode: int) -> None:
    """Give ``new`` the permissions and, where that is allowed, the owner of what is ``there``; else those of ``mode``.

    What is in a new folder gets them by ``mode`` too: the safetensors library makes its files private. A folder has
    more of them: what is made in it later gets its group, or is its owner's alone to remove.
    """
    for one in (new, *new.rglob("*")):
        os.chmod(one, mode & (0o7777 if one.is_dir() else 0o666))
    if there.exists():
        about = there.stat()
        with contextlib.suppress(OSError):
            os.chown(new, about.st_uid, about.st_gid)
        os.chmod(new, about.st_mode & (0o7777 if new.is_dir() else 0o777))


def _sync_all(folder: Path) -> None:
    for one in folder.iterdir():
        _sync_all(one) if one.is_dir() else _sync(one)
    _sync_folder(folder)


def _sync(file: Path) -> None:
    """Have a file written to the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk, where the file system can be told to."""
    with contextlib.suppress(OSError):
        _sync(folder)


def _put(new: Path, path: Path) -> None:
    """Rename a folder to ``path``. What was there is left beside ``new``, and comes back if it fails."""
    if not path.exists():
        os.rename(new, path)
    elif not _exchange(new, path):
        old = new.with_name(OLD)
        os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(old, path)
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code), str(other))
