"""A process that ends with the one that started it, however that ends: even `kill -9` closes a pipe."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_PIPE = "EN_BENCH_TIED_TO"
# Linux up to 5.5 signals all readers of a pipe when any reader closes it: the end of one process would kill the others
# (pipe_release in fs/pipe.c; Linux commit 6551d5c56eb0).
_ALONE = (5, 6)


@dataclass(frozen=True)
class Tie:
    """What `subprocess.Popen` is to be given: `pass_fds=tie.descriptors`, `env=tie.environment`."""

    descriptors: tuple[int, ...]
    environment: dict[str, str]


@contextmanager
def tie(environment: dict[str, str] | None = None) -> Iterator[Tie]:
    """Children started with it end when this process ends, or when the context is left: the first to come.

    They have to be `en-bench` commands, in sessions of their own (`start_new_session=True`): what they have started
    ends with them.
    """
    reading, writing = os.pipe()  # the writing end is closed in every child
    try:
        yield Tie((reading,), {**(os.environ if environment is None else environment), _PIPE: str(reading)})
    finally:
        os.close(reading)
        os.close(writing)


def end_with_parent() -> None:
    """Makes this process, if it was started with a tie, end with its parent. To be called first thing.

    On Linux (5.6 or later) the kernel ends it, and all that it has started, even in the midst of C code that keeps the
    interpreter to itself; elsewhere, and where that is refused, a thread does.
    """
    # Processes that this one starts do not have the descriptor: another file may have its number there.
    descriptor = os.environ.pop(_PIPE, None)
    if descriptor is not None:
        _ask_kernel(int(descriptor))
        threading.Thread(target=_wait_for_end, args=(int(descriptor),), daemon=True).start()


def _ask_kernel(descriptor: int) -> None:
    """Has SIGKILL sent when the last writing end is closed, by `O_ASYNC` (fcntl(2), F_SETOWN and F_SETSIG)."""
    if sys.platform != "linux" or _kernel() < _ALONE:
        return
    try:
        # Opened anew, since an owner is one of the open file, which all children share. It stays open.
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpid() if _leads_group() else os.getpid())
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    except OSError:
        return


def _kernel() -> tuple[int, ...]:
    """Major and minor version; (0,) where its name tells none."""
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (0,) if numbers is None else tuple(map(int, numbers.groups()))


def _leads_group() -> bool:
    return os.getpgrp() == os.getpid()


def _wait_for_end(descriptor: int) -> None:
    os.read(descriptor, 1)  # nothing is ever written: it returns when the last writing end is closed
    if _leads_group():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
