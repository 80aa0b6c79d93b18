"""Text of others, shown in one line."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` in one line: white space as single spaces, and what a terminal might take for a command as its escape."""
    if text.isprintable():
        return text
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
