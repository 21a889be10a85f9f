"""One file a kind of checkpoint, found by content and never by suffix.

Every module here offers :class:`Reader`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sift_cli.checkpoint.base import Checkpoint

#: Bytes of a file's beginning that a reader gets to see.
HEAD = 4096


class Reader(Protocol):
    @staticmethod
    def sniff(head: bytes, path: Path) -> bool:
        """Whether the file that begins with ``head`` is of this kind; at most one reader says so of any file."""

    @staticmethod
    def open(path: Path) -> Checkpoint:
        """Open a file that :func:`sniff` recognised.

        Raises:
            CheckpointError: Whatever is wrong with it, and nothing else however it was damaged.
            UnsafePickle: It can only be read by running code, which is not the reader's to allow.
        """
