"""Running one command of a cell with all its output in a log: in this process, or in one of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

from en_bench.errors import InputError
from en_bench.lease_guard import LeaseLost
from en_bench.resume.interrupt import NOTICED, TERMINAL, Noticed
from en_bench.stop import STOPPED, StopAsked, asked_to_stop, end_notice, leave_closed_terminal
from en_bench.tied import tie

Execute = Callable[[list[str]], None]
"""Runs the arguments of one `en-bench` command in this process; raises where it fails."""


_LONGEST_REASON = 300
_SECONDS_TO_STOP = 30.0
_SECONDS_TO_SAVE = 600.0  # a validation may have to end first; whoever asked has means to end it sooner
# How a command ends that was asked to stop; the signals end one that has not begun to listen, and so has begun nothing.
_AS_ASKED = (0, 130, STOPPED, -signal.SIGINT, -signal.SIGUSR1)


class CommandStopped(StopAsked):
    """A signal that somebody has sent to a command has ended it, and has asked nothing of this process."""


class CutShort(KeyboardInterrupt):
    """A second interrupt, or an error after the first one, has ended a command: what it did since its last checkpoint
    is lost."""


def run_here(execute: Execute, argv: Sequence[str], log: Path) -> str | None:
    """Run a command in this warm process. Returns None, or the reason of its failure in one line.

    Raises KeyboardInterrupt after an interrupt, also where the command turned it into something else, CutShort after a
    second one, or an error, in a training, and LeaseLost.
    """
    with _output_to(log), _noticing_interrupt() as noticed:
        try:
            execute(list(argv))
            reason = None
        except SystemExit as error:
            reason = _exit_reason(error.code, log)
        except LeaseLost:
            raise
        except Exception as error:
            _flush()
            with log.open("a", encoding="utf-8") as stream:
                traceback.print_exc(file=stream)
            name = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            reason = one_line(f"{name}{error}")
        except KeyboardInterrupt:
            if not noticed.unsaved:
                raise
        if noticed.unsaved:
            raise CutShort
        if noticed.interrupted or end_notice() is not None:
            raise KeyboardInterrupt
    return reason


def run_isolated(argv: Sequence[str], log: Path, starter: Sequence[str] = ()) -> str | None:
    """Run a command in a process of its own, as `run_here` does in this one. If this process is killed, it ends too.
    A second SIGINT kills it: CutShort, as after an interrupt that it did not end by.

    Raises CommandStopped where a signal to the command alone has stopped it.
    `starter` are words before the command, such as `srun` with its options: then what they start ends with the job.
    """
    with log.open("ab") as stream, tie() if not starter else nullcontext() as tied:
        child = subprocess.Popen(
            [*starter, sys.executable, "-m", "en_bench", *argv],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # with the ranks it starts, it is stopped as one group
            pass_fds=tied.descriptors if tied is not None else (),
            env=tied.environment if tied is not None else None,
        )
        try:
            code = child.wait()
        except BaseException as error:
            try:
                _stop(child)
            except KeyboardInterrupt:
                raise CutShort from None
            if isinstance(error, KeyboardInterrupt) and child.returncode not in _AS_ASKED:
                raise CutShort from None
            raise
        finally:
            # Ranks that it has left behind; all of them, where a second interrupt has cut _stop short.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if code == STOPPED:
        raise CommandStopped("a signal to the command")
    return _exit_reason(code, log)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Raises KeyboardInterrupt at a SIGINT that comes meanwhile."""
    try:
        _ask_to_stop(child)
    except StopAsked:  # after Ctrl-C, as its terminal closes, say: asks for no more than that did, and comes once only
        _ask_to_stop(child)


def _ask_to_stop(child: subprocess.Popen[bytes]) -> None:
    if asked_to_stop() is not None:
        child.send_signal(signal.SIGUSR1)  # to the first rank, which tells the others, or to srun, which passes it on
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_SECONDS_TO_SAVE)
            return
    with contextlib.suppress(ProcessLookupError):
        # The first lets a training save its step.
        for number, seconds in ((signal.SIGINT, _SECONDS_TO_SAVE), (signal.SIGTERM, _SECONDS_TO_STOP)):
            os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(seconds)
                return


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    # Handlers of logging keep the stream objects they were made with, and libraries in C++ know none:
    # only the file descriptors are common to all.
    kept = os.dup(1), os.dup(2)
    try:
        with log.open("ab") as stream:
            _flush()
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        token = TERMINAL.set(kept[1])
        try:
            yield
        finally:
            TERMINAL.reset(token)
    finally:
        try:
            _flush()
        finally:  # also where the disk of the log is full
            for number, handle in zip((1, 2), kept, strict=True):
                os.dup2(handle, number)
                os.close(handle)
            leave_closed_terminal()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


@contextlib.contextmanager
def _noticing_interrupt() -> Iterator[Noticed]:
    """Yield what notices an interrupt: Lightning answers one with SystemExit and ignores all further."""
    noticed = Noticed()
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in the background of a script
    handles = not ignored and threading.current_thread() is threading.main_thread()

    def notice(number: int, frame: FrameType | None) -> None:
        noticed.interrupted = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, notice) if handles else None
    token = NOTICED.set(noticed)
    try:
        yield noticed
    finally:
        NOTICED.reset(token)
        if handles:
            signal.signal(signal.SIGINT, before)


def _exit_reason(code: object, log: Path) -> str | None:
    if code is None or code == 0:
        return None
    if isinstance(code, str):
        return one_line(code)
    _flush()
    ended = f"killed by signal {-code}" if isinstance(code, int) and code < 0 else f"exit code {code}"
    lines = [line for line in _tail(log).splitlines() if line.strip()]
    said = [line for line in lines if "error:" in line.lower()] or lines
    return one_line(f"{ended}: {said[-1]}" if said else ended)


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 8192))
        return stream.read().decode(errors="replace")


def one_line(text: str) -> str:
    """`text` with all white space as single spaces, cut to a length that fits a table."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_REASON else f"{words[: _LONGEST_REASON - 1]}…"
