"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sift_cli.errors import OutputExists, OutputUnwritable

#: What a disk says that is full, broken or read-only.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.EPERM, errno.EACCES)


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse an output before any work is done for it.

    Raises:
        OutputExists: Something is there and ``force`` is False.
        OutputUnwritable: The folder is missing or read-only, or the path is a folder.
    """
    if path.is_dir():
        raise OutputUnwritable(path, "it is a folder")
    if not path.parent.is_dir():
        raise OutputUnwritable(path, f"the folder {path.parent} does not exist")
    if path.exists() and not path.is_file():
        raise OutputUnwritable(path, "it is no regular file")
    if path.exists() and not force:
        raise OutputExists(path)
    if not os.access(path.parent, os.W_OK):
        raise OutputUnwritable(path, f"the folder {path.parent} is not writable")


@contextlib.contextmanager
def atomic(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move what was written there into place.

    The temporary file is flushed to disk and renamed in one step when the block ends, and removed when it raises, so
    a reader sees the old file or the new one and never a half. Verification belongs inside the block: a file that
    fails it never gets its name.

    Raises:
        OutputExists, OutputUnwritable: See :func:`check_writable`; also when the disk is full.
    """
    path = Path(path)
    check_writable(path, force=force)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise OutputUnwritable(path, error.strerror or str(error)) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; what the user gets follows their umask like any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        if path.exists() and not force:
            raise OutputExists(path)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise  # something else in the block failed, and that is not the output's fault
        raise OutputUnwritable(path, error.strerror or str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(path: Path, *, force: bool, ours: str) -> None:
    """Refuse an output folder before any work is done for it.

    Args:
        path: The folder.
        force: Replace one that sift wrote before.
        ours: Name of the file by which such a one is known: no other folder is ever deleted.

    Raises:
        OutputExists: Something is there and ``force`` is False.
        OutputUnwritable: It is no folder, or none of sift's; or its parent is missing or read-only.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise OutputUnwritable(path, "it is no folder")
    if path.is_dir() and any(path.iterdir()):
        if not force:
            raise OutputExists(path)
        if not (path / ours).is_file():
            raise OutputUnwritable(path, "it is a folder that sift did not write")
    if not path.absolute().parent.is_dir():
        raise OutputUnwritable(path, f"the folder {path.parent} does not exist")
    if not os.access(path.absolute().parent, os.W_OK):
        raise OutputUnwritable(path, f"the folder {path.parent} is not writable")


@contextlib.contextmanager
def atomic_folder(path: Path, *, ours: str, force: bool = False) -> Iterator[Path]:
    """:func:`atomic` for a folder: yield an empty temporary one beside ``path`` and rename it in one step.

    Raises:
        OutputExists, OutputUnwritable: See :func:`check_folder`; also when the disk is full.
    """
    path = Path(path).absolute()
    check_folder(path, force=force, ours=ours)
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    except OSError as error:
        raise OutputUnwritable(path, error.strerror or str(error)) from None
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)
        for file in temporary.iterdir():
            os.chmod(file, 0o666 & ~umask)
            with open(file, "rb+") as written:
                os.fsync(written.fileno())
        check_folder(path, force=force, ours=ours)
        _put(temporary, path)
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        raise OutputUnwritable(path, error.strerror or str(error)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, path: Path) -> None:
    """Rename a folder to ``path``; what was there is deleted after that and comes back if it fails."""
    old = temporary.with_suffix(".old")
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(temporary, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
