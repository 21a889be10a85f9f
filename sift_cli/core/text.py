"""Text from files, for people."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with control characters and halves of characters written out: names come from files, a terminal obeys
    what it is sent, and XML cannot hold them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
