"""Being asked to stop by a signal: what a cluster sends before it takes a machine away."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 75
"""Exit code of what was stopped and can go on (EX_TEMPFAIL of sysexits.h)."""

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP, which a terminal that closes sends, unless it is ignored, as under `nohup`."""

_SECONDS_TO_END = 30  # of a loading process, after the signal that asks everybody


class StopAsked(KeyboardInterrupt):
    """A signal asks for a stop: ends what Ctrl-C ends."""


class _Request:
    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self.noticed: signal.Signals | None = None  # by a training, which has to end its step first

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: the first one raises StopAsked. What is being stopped is not disturbed by further ones."""
        if number == signal.SIGHUP:
            leave_closed_terminal()
        first, self.by = self.by is None, self.by or signal.Signals(number)
        if first:
            raise StopAsked(self.by.name)


_requests: list[_Request] = []


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it SIGUSR1, SIGTERM and SIGHUP raise StopAsked, but in a training, which ends its step first.

    Outside the main thread nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    request = _Request()
    _requests.append(request)
    # Who starts this may ignore the others for as long as nobody handles them, as jobs of Slurm do.
    ours = [each for each in STOP_SIGNALS if each != signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, request.receive) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _requests.pop()


def asked_to_stop() -> signal.Signals | None:
    """The signal that has asked for a stop within `stoppable`, whatever has become of its StopAsked since."""
    return _requests[-1].by if _requests else None


def notice_stop(number: int) -> None:
    """Tells `signalled_to_stop` of a signal that takes effect later."""
    if number == signal.SIGHUP:
        leave_closed_terminal()
    if _requests and number in STOP_SIGNALS:
        _requests[-1].noticed = signal.Signals(number)


def signalled_to_stop() -> signal.Signals | None:
    """As `asked_to_stop`, and also while a training is still at the step that it ends first. For any thread."""
    request = _requests[-1] if _requests else None
    return None if request is None else request.by or request.noticed


def end_notice() -> signal.Signals | None:
    """As `asked_to_stop`; a stop that a training had only noticed when an error ended it has its effect now."""
    if _requests and _requests[-1].by is None:
        _requests[-1].by = _requests[-1].noticed
    return asked_to_stop()


def leave_closed_terminal() -> None:
    """What is printed to a terminal that is gone, where it would raise, goes nowhere from now on."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def told_of_stop(by: signal.Signals) -> str:
    """The last line of a command that a signal has stopped."""
    return f"en-bench: stopped by {by.name}"


def leave_signals_to_parent() -> None:
    """For loading processes: signals reach the whole group, and a training needs them until its step has ended."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_SECONDS_TO_END))
