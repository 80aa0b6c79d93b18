"""What is told while a run stops: whom it waits for, and at the end what was saved and what is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from en_bench.duration import duration
from en_bench.matrix.commands import checkpoint_path
from en_bench.matrix.local.live import Row
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.results import Results
from en_bench.matrix.training import FIT

AGAIN = "Ctrl-C again stops at once"
SAVED = "stopped: all is saved, the same command goes on"
UNSAVED = "stopped: the same command goes on from what was saved"
_SECONDS_BETWEEN_LINES = 15.0
_MOST_NAMED = 4


@dataclass
class Stopping:
    """Says with `say` what a stop waits for, in a line at its beginning and every few `seconds`, and how it ended."""

    results: Results
    metric: str
    say: Callable[[str], None]
    seconds: float = _SECONDS_BETWEEN_LINES
    _lost: list[str] = field(default_factory=list)
    _again: list[str] = field(default_factory=list)
    _began: float = 0.0
    _next: float = 0.0

    def begin(self, running: Sequence[PlannedCell]) -> None:
        """The first request: each of the cells that run ends what it is at."""
        self._began = time.monotonic()
        self._next = self._began + self.seconds
        if running:
            told = named(running)
            self.say(f"stopping, waits for {told}: a training ends its step, or its validation, and saves it; {AGAIN}")

    def wait(self, rows: Mapping[str, Row]) -> None:
        """While the cells of `rows` run still."""
        now = time.monotonic()
        if rows and now >= self._next:
            self._next = now + self.seconds
            told = _named([f"{cell} ({row.words(self.metric)})" for cell, row in rows.items()])
            self.say(f"{duration(now - self._began)} after the request, waits for {told}; {AGAIN}")

    def saved(self, item: PlannedCell) -> None:
        """What a cell was at has ended as it was asked to."""
        if (self.results.run(item.cell.id) / FIT).exists():
            self._again.append(f"{item.cell}: its training is whole, the validation under way begins anew")

    def lose(self, item: PlannedCell, row: Row) -> None:
        """The process of a cell ended before it had saved: killed by a second request, or by others."""
        if row.progress is not None:  # else it had begun nothing
            self.cut_short(item)

    def cut_short(self, item: PlannedCell) -> None:
        """A command of a cell was at work, and ended before it had saved."""
        self._lost.append(f"{item.cell} ended unsaved: {self._what_is_lost(item)}")

    def end(self) -> None:
        """The last lines."""
        for line in (*self._again, *self._lost):
            self.say(line)
        self.say(UNSAVED if self._lost else SAVED)

    def _what_is_lost(self, item: PlannedCell) -> str:
        run = self.results.run(item.cell.id)
        if (run / FIT).exists():
            return "the validation under way begins anew"
        try:
            age = time.time() - checkpoint_path(run).stat().st_mtime
        except OSError:
            return "there is no checkpoint yet, its training begins anew"
        return f"the steps since its checkpoint are lost, which is {duration(max(0.0, age))} old"


def named(items: Sequence[PlannedCell]) -> str:
    """The names of a few cells, and how many more there are."""
    return _named([str(item.cell) for item in items])


def _named(cells: Sequence[str]) -> str:
    more = f" and {len(cells) - _MOST_NAMED} more" if len(cells) > _MOST_NAMED else ""
    return ", ".join(cells[:_MOST_NAMED]) + more
