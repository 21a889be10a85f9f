"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
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
