"""Being asked to stop by a signal: what a cluster sends before it takes a machine away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 75
"""Exit code of what was stopped and can go on (EX_TEMPFAIL of sysexits.h)."""

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
_SECONDS_TO_END = 30  # of a loading process, after the signal that asks everybody


class StopAsked(KeyboardInterrupt):
    """A signal asks for a stop: ends what Ctrl-C ends."""


class _Request:
    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self.noticed: signal.Signals | None = None  # by a training, which has to end its step first

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: the first one raises StopAsked. What is being stopped is not disturbed by further ones."""
        first, self.by = self.by is None, self.by or signal.Signals(number)
        if first:
            raise StopAsked(self.by.name)


_requests: list[_Request] = []


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it SIGUSR1 and SIGTERM raise StopAsked, but in a training, which ends its step first.

    Outside the main thread nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    request = _Request()
    _requests.append(request)
    before = {number: signal.signal(number, request.receive) for number in STOP_SIGNALS}
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
    if _requests and number in STOP_SIGNALS:
        _requests[-1].noticed = signal.Signals(number)


def signalled_to_stop() -> signal.Signals | None:
    """As `asked_to_stop`, and also while a training is still at the step that it ends first. For any thread."""
    request = _requests[-1] if _requests else None
    return None if request is None else request.by or request.noticed


def leave_signals_to_parent() -> None:
    """For loading processes: signals reach the whole group, and a training needs them until its step has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_SECONDS_TO_END))
