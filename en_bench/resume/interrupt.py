"""Ctrl-C, or a signal that asks for a stop: the step under way ends, and is saved, before the training stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any

from en_bench.stop import STOP_SIGNALS, StopAsked, asked_to_stop, notice_stop

TERMINAL: ContextVar[int] = ContextVar("TERMINAL", default=2)
"""The descriptor that the user reads: another than that of errors where output goes to a log."""


@dataclass
class Noticed:
    """What a command that runs within another program could not make known by its exception.

    `interrupted` says that there was a SIGINT: one before the training, whose exception may have been swallowed by what
    was imported or made then, or one in it, which an error may keep from taking effect. `unsaved` says that a second
    one, or an error, has ended the training before it had saved its step.
    """

    interrupted: bool = False
    unsaved: bool = False


NOTICED: ContextVar[Noticed | None] = ContextVar("NOTICED", default=None)
"""Of the program around the command, if there is one."""

TOLD = "stopping after this step, or after the validation if one is running; Ctrl-C again stops at once"
"""What the user is told then."""

Handler = Callable[[int, FrameType | None], Any]


class Interrupt:
    """While it is entered, a first SIGINT or signal that asks for a stop is noticed only: `obey`, or the end, gives it
    its effect.

    A SIGINT after it takes effect at once, also where SIGINT is ignored; further ones of the others change nothing.
    Signals without a handler (none of ours, or ignored) keep their effect else, as all do in another thread than the
    main one.
    """

    def __init__(self) -> None:
        self.by: int | None = None  # the signal that asked, until it was obeyed
        self._before: dict[int, Handler] = {}
        self._noticed: Noticed | None = None
        self._sigint_was_ignored = False
        self._obeyed = False

    def __enter__(self) -> Interrupt:
        self.by = asked_to_stop()  # where an exception cannot be raised, as in a destructor, Python only prints it
        self._noticed = NOTICED.get()
        if self.by is None and self._noticed is not None and self._noticed.interrupted:
            self.by = signal.SIGINT
        self._before, self._obeyed, self._sigint_was_ignored = {}, False, False
        if threading.current_thread() is threading.main_thread():
            self._sigint_was_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            for number in (signal.SIGINT, *STOP_SIGNALS):
                before = signal.getsignal(number)
                if callable(before):
                    self._before[number] = before
                    signal.signal(number, self._notice)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for number, before in self._before.items():
            # Whoever handles what ended the training may have a handler of its own by now.
            if signal.getsignal(number) == self._notice:
                signal.signal(number, before)
        if self._sigint_was_ignored and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._noticed is not None and self.by is not None and kind is not None:
            self._noticed.unsaved = True
        try:
            if kind is None:  # an error says more than that there was an interrupt, too
                self.obey()
        finally:
            self._before = {}

    def obey(self, by: int | None = None) -> None:
        """Does what the handler before would have done, KeyboardInterrupt as a rule, if there was an interrupt.

        `by` is the signal that another rank has received.
        """
        asked, self.by = self.by or by, None
        if asked in self._before:
            self._obeyed = True
            self._before[asked](asked, None)
            if asked in STOP_SIGNALS:
                raise StopAsked(signal.Signals(asked).name)
            self._obeyed = False  # the handler has left it at that

    def _notice(self, number: int, frame: FrameType | None) -> None:
        notice_stop(number)
        if number == signal.SIGINT and self._noticed is not None:
            self._noticed.interrupted = True
        self._let_sigint_take_effect()
        if self._obeyed:
            return  # all is saved: nothing is left to end first
        first, self.by = self.by is None, self.by or number
        if first:
            with suppress(OSError):  # nobody reads it: the Ctrl-C that ends this has ended `tee`, too
                os.write(TERMINAL.get(), f"\n{TOLD}\n".encode())  # print could be what is being interrupted

    def _let_sigint_take_effect(self) -> None:
        if self._sigint_was_ignored:  # in the background of a script; once a stop is asked for, it is meant for us
            signal.signal(signal.SIGINT, signal.default_int_handler)
        elif signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
