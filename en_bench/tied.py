"""A process that ends with the one that started it, however that ends: even `kill -9` closes a pipe."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_PIPE = "EN_BENCH_TIED_TO"


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
    """Makes this process, if it was started with a tie, end with its parent. To be called first thing."""
    # Processes that this one starts do not have the descriptor: another file may have its number there.
    descriptor = os.environ.pop(_PIPE, None)
    if descriptor is not None:
        threading.Thread(target=_wait_for_end, args=(int(descriptor),), daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    os.read(descriptor, 1)  # nothing is ever written: it returns when the last writing end is closed
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
