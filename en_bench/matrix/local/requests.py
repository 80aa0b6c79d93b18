"""The signals that ask a launcher to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from en_bench.stop import STOP_SIGNALS, leave_closed_terminal


class StopRequests:
    """Signals in their order. `level` is 1 after the first, 2 after a second one if that is a SIGINT."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    @property
    def level(self) -> int:
        return 2 if signal.SIGINT in self.asked[1:] else min(len(self.asked), 1)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_closed_terminal()
        self.asked.append(number)
        # Also where it is ignored, as in the background of a script: once a stop is asked for, it is meant for us.
        signal.signal(signal.SIGINT, self.receive)

    @contextmanager
    def received(self) -> Iterator[None]:
        """Within it signals only ask; those that are ignored do nothing, but SIGINT after another has asked.

        Outside the main thread nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOP_SIGNALS)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self.receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def obey(self) -> None:
        """Does what the handler of the first signal does that was there before, if there is one: not for SIGINT."""
        handler = signal.getsignal(self.asked[0])
        if self.asked[0] != signal.SIGINT and callable(handler):
            handler(self.asked[0], None)
