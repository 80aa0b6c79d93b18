"""A folder that appears whole or not at all."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from en_bench.errors import InputError

_LOCK_NAME = ".lock"


@contextlib.contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """A sibling folder that takes the final name when the block ends well, and vanishes when it does not.

    What a killed run left is removed. A lock keeps a second process out; the system drops it with the process.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    lock_path = partial / _LOCK_NAME
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another process is writing it: wait for it, or stop it") from error
        # Between opening and locking, the other process may have finished and moved the folder with its lock.
        if not lock_path.exists() or lock_path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
            raise InputError(f"{folder}: another process has just written it: run again")
        for leftover in partial.iterdir():
            if leftover.name != _LOCK_NAME:
                leftover.unlink()
        try:
            yield partial
            _sync_folder(partial)
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        (folder / _LOCK_NAME).unlink()
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
