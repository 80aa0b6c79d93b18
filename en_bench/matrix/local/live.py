"""What is seen of a matrix while it runs: a live table on a terminal, elsewhere a line every few minutes."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, TextIO

from en_bench.duration import duration
from en_bench.matrix.local.columns import GAP, fitted
from en_bench.matrix.progress import Progress
from en_bench.resume.reached import Reached

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

MINUTES_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_TABLES = 1.0
_SILENT_SECONDS = 60.0
_UNKNOWN = "-"


@dataclass(frozen=True)
class Row:
    """A cell that runs: `where` is its slot, GPU, job or machine, `seconds` how long it has been running, if known.

    `progress` is what its commands told last; `at_work` is False between two of them, when that does not go on.
    `goes_on` is where a training that was stopped before begins, `silent` how many seconds ago it told something.
    """

    cell: str
    where: str
    seconds: float | None
    progress: Progress | None
    at_work: bool = True
    goes_on: Reached | None = None
    silent: float = 0.0

    def columns(self, metric: str) -> tuple[str, ...]:
        """Cell, where, epoch, images/s, score, time left, and the time so far."""
        return self.cell, self.where, *self._told(metric), _UNKNOWN if self.seconds is None else duration(self.seconds)

    def line(self, metric: str) -> str:
        """The same in a few words."""
        since = f" for {duration(self.seconds)}" if self.progress is None and self.seconds is not None else ""
        return f"{self.where}: {self.cell} {self.words(metric)}{since}"

    def words(self, metric: str) -> str:
        """How far it is."""
        epoch, rate, score, left = self._told(metric)
        if self.progress is None:
            return epoch
        named = f"epoch {epoch}" if self.progress.command == "fit" else epoch
        return f"{named}, {rate} images/s, {metric} {score}, time left {left}"

    def _told(self, metric: str) -> tuple[str, str, str, str]:
        progress = self.progress
        if progress is None:
            return "starts" if self.goes_on is None else f"goes on at {self.goes_on}", _UNKNOWN, _UNKNOWN, _UNKNOWN
        if progress.command != "fit":
            epoch = "recalibrates" if progress.command == "recalibrate" else "validates"
        else:
            epoch = str(progress.epoch) + ("" if progress.epochs is None else f"/{progress.epochs}")
            epoch += " val" if progress.phase == "validate" else ""
        score = progress.scores.get(metric)
        if score is None:
            told = "nan" if metric in progress.scores else _UNKNOWN
        else:
            told = f"{score:.3f}" if metric == "nll" else f"{100 * score:.1f}"
        if not self.at_work:
            return f"{epoch} ...", _UNKNOWN, told, _UNKNOWN
        rate = _UNKNOWN if progress.images_per_second is None else f"{progress.images_per_second:.0f}"
        if self.silent > _SILENT_SECONDS:  # a long compilation, a slow disk, or a process that hangs
            return epoch, rate, told, f"silent {duration(self.silent)}"
        return epoch, rate, told, _UNKNOWN if progress.seconds_left is None else duration(progress.seconds_left)


@dataclass(frozen=True)
class View:
    """A matrix at a moment.

    `elsewhere` are cells that other runners are at, `left` is how many ended without a record, which nobody here runs;
    `seconds_left` are those of the whole, if known.
    """

    name: str
    metric: str
    total: int
    done: int
    failed: int
    rows: Sequence[Row]
    waiting: int
    seconds: float
    seconds_left: float | None
    elsewhere: Sequence[Row] = ()
    left: int = 0
    stopping: bool = False

    def counts(self) -> str:
        """All cells in one line, with the time left for the whole."""
        return "   ".join(self.counted())

    def counted(self) -> tuple[str, str]:
        """The same in two parts: the cells, and the time."""
        parts = [f"done {self.done}", f"running {len(self.rows)}", f"waiting {self.waiting}"]
        more = ("failed", self.failed), ("elsewhere", len(self.elsewhere)), ("without a record", self.left)
        parts += [f"{word} {count}" for word, count in more if count]
        left = "time left unknown yet" if self.seconds_left is None else f"time left {duration(self.seconds_left)}"
        left = "stopping" if self.stopping else left
        return f"{self.name}: {', '.join(parts)} of {self.total}", f"{duration(self.seconds)} so far, {left}"


_MOST_LINES = 16
_FREE_COLUMNS = 2  # at the right of the table: room for the ^C that a terminal shows at the cursor


def table(view: View, height: int, width: int) -> RenderableType:
    """The live table for a terminal of so many lines and columns, in less of both, however many cells run."""
    from rich.constrain import Constrain
    from rich.table import Table
    from rich.text import Text

    room = max(1, width - _FREE_COLUMNS)
    counts = [view.counts()] if len(view.counts()) <= room else [*_wrapped(view.counted(), room)]
    counts = counts[: max(1, height - 1)]
    lines = height - 2 - len(counts)  # without the head, and the line that the cursor is on
    everywhere = [*view.rows, *view.elsewhere]
    rows = everywhere if len(everywhere) <= lines else everywhere[: max(0, lines - 1)]
    names, fields = fitted([row.columns(view.metric) for row in rows], view.metric, room)
    drawn = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, expand=False, header_style="bold")
    for name in names:
        named = view.metric if name == "score" else name
        drawn.add_column(named, justify="left" if name in ("cell", "on", "epoch") else "right", no_wrap=True)
    for row in fields:
        drawn.add_row(*(Text(part) for part in row))
    drawn_with_counts = Table.grid()
    drawn_with_counts.add_column(no_wrap=True)
    for line in counts:
        drawn_with_counts.add_row(Text(line, style="bold"))
    if rows:
        drawn_with_counts.add_row(drawn)
        if len(rows) < len(everywhere):
            drawn_with_counts.add_row(Text(f"... and {len(everywhere) - len(rows)} more"))
    return Constrain(drawn_with_counts, room)


def _wrapped(parts: Sequence[str], width: int) -> Iterator[str]:
    for part in parts:
        yield from textwrap.wrap(part, width)


class Screen:
    """Where lines are said and views are shown. To be entered."""

    def __init__(self, stream: TextIO | None = None, minutes: float = MINUTES_BETWEEN_LINES) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._seconds = minutes * 60
        self._told = time.monotonic()  # when a view was shown last
        self._live: Live | None = None
        self._console: Console | None = None

    def __enter__(self) -> Screen:
        if is_terminal(self._stream):
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self._stream, highlight=False, markup=False, emoji=False)
            self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stderr=False)
            self._live.start()
            main = threading.current_thread() is threading.main_thread()
            if main and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:  # else nobody can halt us
                signal.signal(signal.SIGTSTP, self._halt)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()
            self._live = None
            if signal.getsignal(signal.SIGTSTP) == self._halt:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _halt(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell has the terminal until `fg`, and finds its cursor there."""
        self._show_cursor(True)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._halt)  # from here on it goes on
        self._show_cursor(False)

    def _show_cursor(self, shown: bool) -> None:
        from rich.control import Control

        with suppress(OSError):  # not by the console, which may be what was interrupted
            os.write(self._stream.fileno(), Control.show_cursor(shown).segment.text.encode())

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._console is not None:
            with suppress(OSError):  # a terminal that was closed
                self._console.print(line, soft_wrap=True)
        else:
            tell(line, self._stream)

    def show(self, view: Callable[[], View]) -> None:
        """Draws the table anew, if a second has passed; not on a terminal: says now and then what runs."""
        now = time.monotonic()
        if now - self._told < (self._seconds if self._live is None else _SECONDS_BETWEEN_TABLES):
            return
        self._told = now
        if self._live is not None and self._console is not None:
            drawn = table(view(), *self._console.size[::-1])
            with suppress(OSError):
                self._live.update(drawn, refresh=True)
        else:
            for line in plain(view()):
                self.say(line)


def tell(line: str, stream: TextIO | None = None) -> None:
    """Prints a line at once. Where nobody reads it any more, as after a Ctrl-C that has ended `tee`, work goes on."""
    to = sys.stdout if stream is None else stream
    try:
        print(line, file=to, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)  # else what is left in the buffer raises again at the end
        os.dup2(nowhere, to.fileno())
        os.close(nowhere)
    except OSError:  # a full disk: what is said goes without saying
        pass


def plain(view: View) -> list[str]:
    """What runs, for a log: the counts and a line for each of the first few cells."""
    everywhere = [*view.rows, *view.elsewhere]
    shown = [f"  {row.line(view.metric)}" for row in everywhere[:_MOST_LINES]]
    more = [f"  ... and {len(everywhere) - _MOST_LINES} more"] if len(everywhere) > _MOST_LINES else []
    return [view.counts(), *shown, *more]


@contextmanager
def now_and_then(view: Callable[[], View], minutes: float = MINUTES_BETWEEN_LINES) -> Iterator[None]:
    """Says every so many minutes what runs, from beside a process that works itself, its output going elsewhere."""
    ended = threading.Event()

    def tell_of_it() -> None:
        while not ended.wait(minutes * 60):
            tell("\n".join(plain(view())), stream)

    with open(os.dup(1), "w", encoding="utf-8") as stream:
        thread = threading.Thread(target=tell_of_it, name="live", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def is_terminal(stream: TextIO) -> bool:
    """Whether lines can be drawn anew there."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
