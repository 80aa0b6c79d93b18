"""Locks between processes that end with their holder, however it ends: flock on files that stay."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def lock(path: Path, how: int) -> int:
    """A descriptor that holds a lock (`fcntl.LOCK_...`) until it is closed by all who inherited it.

    Raises BlockingIOError where another holds it and `how` says not to wait, and other OSErrors.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Holds a lock. Without `wait` it may be held by another: then yields False."""
    try:
        descriptor = lock(path, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # not by closing alone: a child forked meanwhile holds it as well
        os.close(descriptor)
