"""One training in a folder at a time, also of those typed by hand."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from en_bench.errors import InputError
from en_bench.lease_guard import works_under_lease

# Forked data-loading workers inherit the claim and notice within five seconds that their parent was killed.
_SECONDS_TO_CLAIM = 10.0
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # Lustre mounted without `flock`, say


@contextlib.contextmanager
def claim_folder(folder: Path, cure: str) -> Iterator[None]:
    """Hold `folder` alone; InputError if another command works in it.

    Nobody is waited for where locks do not work, nor under a lease: that says whose the folder is, and who lost it
    may have been stopped with the folder in its hands.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + _SECONDS_TO_CLAIM
        while not (_locked(handle) or works_under_lease()):
            if time.monotonic() > deadline:
                raise InputError(f"another run is at work in {folder}: {cure}")
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    """Whether the lock is ours now, or there are none here."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
