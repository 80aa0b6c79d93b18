"""Ctrl-C during a training: the step that is under way ends, and is saved, before the training stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType
from typing import Any

TERMINAL: ContextVar[int] = ContextVar("TERMINAL", default=2)
"""The descriptor that the user reads: another than that of errors where output goes to a log."""

TOLD = "stopping after this step, or after the validation if one is running; Ctrl-C again stops at once"
"""What the user is told then."""


class Interrupt:
    """While it is entered, a first SIGINT is noticed only. It takes effect at the next `obey`, or at the end.

    A second one takes effect at once. In another thread than the main one, or where SIGINT is ignored, nothing happens.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Callable[[int, FrameType | None], Any] | None = None

    def __enter__(self) -> Interrupt:
        self.asked = False
        before = signal.getsignal(signal.SIGINT)
        if callable(before) and threading.current_thread() is threading.main_thread():
            self._before = before
            signal.signal(signal.SIGINT, self._notice)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # Whoever handles what ended the training may have a handler of its own by now.
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._notice:
            signal.signal(signal.SIGINT, self._before)
        try:
            if kind is None:  # an error says more than that there was an interrupt, too
                self.obey()
        finally:
            self._before = None

    def obey(self) -> None:
        """Does what the handler before would have done, KeyboardInterrupt as a rule, if there was an interrupt."""
        if self.asked and self._before is not None:
            self.asked = False
            self._before(signal.SIGINT, None)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        assert self._before is not None
        self.asked = True
        signal.signal(signal.SIGINT, self._before)
        os.write(TERMINAL.get(), f"\n{TOLD}\n".encode())  # print could be what is being interrupted
