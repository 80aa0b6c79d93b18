"""What a runner, or the launcher of several, knows of its cells: which wait, run and have ended, and how they went."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from en_bench.duration import duration
from en_bench.matrix.file_clock import FileClock
from en_bench.matrix.local.live import Row, View
from en_bench.matrix.local.others import Others, Seen
from en_bench.matrix.local.time_left import Durations, Underway, time_left
from en_bench.matrix.overlays import shown
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.progress import Progress, read_progress, seconds_since_written
from en_bench.matrix.records import Record, covers_set
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec
from en_bench.plural import counted
from en_bench.resume.reached import Reached


@dataclass(frozen=True)
class Settled:
    """A cell that has its record: from `seconds` of work, None where another runner has done it.

    `saved` is False where the record, of a failure, could not be written.
    """

    record: Record
    seconds: float | None
    saved: bool = True


@dataclass
class _Running:
    """A cell that runs, and what its commands told last."""

    item: PlannedCell
    where: str
    slots: int
    clock: FileClock
    before: Progress | None  # what lay there when it began: of a command that was killed
    began: float = field(default_factory=time.monotonic)
    last: Progress | None = None
    silent: float = 0.0
    at_work: bool = False
    whole: float | None = None
    goes_on: Reached | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def look(self, run: Path) -> None:
        """Reads what the command that is at work tells, if there is one that does."""
        found = read_progress(run)
        self.at_work = found is not None and found != self.before
        if found is None or not self.at_work:
            return
        self.silent = seconds_since_written(run, self.clock)
        if found.command == "fit" and found.seconds_left is not None:
            self.whole = self.seconds + found.seconds_left
        before = self.last.scores if self.last is not None else {}
        self.last = replace(found, scores=found.scores or before)

    def underway(self) -> Underway:
        trained = self.last is not None and self.last.command != "fit"
        seconds = self.seconds
        left = None if self.whole is None else max(0.0, self.whole - seconds)
        return Underway(self.item.cell, seconds, left, trained, self.slots)

    def row(self) -> Row:
        return Row(str(self.item.cell), self.where, self.seconds, self.last, self.at_work, self.goes_on, self.silent)


class Tally:
    """Of the cells `planned`, those that are not done wait, in this order.

    `slots` is how many may run at a time and `slots_of` how many of them a cell takes. `others` look at what further
    runners do with those that do not run here. `reached` tells how far the training of a cell is that goes on.
    """

    def __init__(
        self,
        spec: Spec,
        results: Results,
        planned: Sequence[PlannedCell],
        slots: int = 1,
        slots_of: Callable[[PlannedCell], int] = lambda item: 1,
        others: Others | None = None,
        reached: Callable[[PlannedCell], Reached | None] = lambda item: None,
    ) -> None:
        self.waiting = [item for item in planned if item.state is not State.DONE]
        self.held: list[PlannedCell] = []  # by other runners
        self.failed = 0
        self._clock = FileClock(results.leases)
        self._spec, self._results, self._slots, self._others = spec, results, slots, others
        self._slots_of = {item.cell.id: slots_of(item) for item in self.waiting}
        self._how_far = reached
        self._reached = {item.cell.id: found for item in self.waiting if (found := reached(item)) is not None}
        self._total, self._settled = len(planned), len(planned) - len(self.waiting)
        self._settled_before = self._settled
        self._running: dict[str, _Running] = {}
        self._durations = Durations.of_records(planned)
        self._start = time.monotonic()

    def head(self) -> str:
        """The first line of a run."""
        return f"{self._spec.name}: {counted(self._total, 'cell')}, {self._settled} of them done"

    def begin(self, item: PlannedCell, where: str, slots: int = 1) -> None:
        """A cell that waited runs."""
        self.waiting.remove(item)
        cell = item.cell.id
        before = read_progress(self._results.run(cell))
        self._running[cell] = _Running(item, where, slots, self._clock, before, goes_on=self._reached.get(cell))

    def wait(self, item: PlannedCell) -> None:
        """A cell that ran begins again, before all that wait."""
        del self._running[item.cell.id]
        self._look_again(item)
        self.waiting.insert(0, item)

    def leave(self, item: PlannedCell) -> None:
        """A cell turned out to be held by another runner."""
        del self._running[item.cell.id]
        self.held.append(item)

    def settle(self, item: PlannedCell, settled: Settled) -> str | None:
        """A cell has ended. Returns the line that says so, None where another runner has said it."""
        self._running.pop(item.cell.id)
        self._settled += 1
        record, seconds = settled.record, settled.seconds
        self.failed += record.status == "failed"
        if seconds is None:
            return None
        trained = record.fit.get("cost", {}).get("seconds")
        if record.status == "done" and isinstance(trained, int | float) and seconds >= trained:
            self._durations.add(item.cell, seconds)  # it was trained from its beginning, not just validated
        seen = self._seen(afresh=True)  # else two runners would give their cells the same number
        ended = self._settled + len(seen.records)
        number = f"[{ended:{len(str(self._total))}d}/{self._total}]"
        left = self._seconds_left(seen)
        told = f"   time left {duration(left)}" if left is not None else ""
        return f"{number} {self._line(item, record)}   {duration(seconds)}{told}"

    def another_round(self) -> bool:
        """Whether to try again the cells that others held: if any cell has ended since, theirs may have, too."""
        again = bool(self.held) and self._settled > self._settled_before
        if again:
            self.waiting, self.held = self.held, []
        self._settled_before = self._settled
        return again

    def retry(self, items: Sequence[PlannedCell]) -> None:
        """Cells that were held by others can be taken."""
        free = {item.cell.id for item in items}
        self.held = [item for item in self.held if item.cell.id not in free]
        for item in items:
            self._look_again(item)
        self.waiting.extend(items)

    def _look_again(self, item: PlannedCell) -> None:
        """Whoever ran a cell may have trained a part of it."""
        found = self._how_far(item)
        if found is not None:
            self._reached[item.cell.id] = found
        else:
            self._reached.pop(item.cell.id, None)

    def seconds_left(self) -> float | None:
        """Until all is done, also what other runners are at, if anything tells."""
        return self._seconds_left(self._seen())

    def _left_of(self, item: PlannedCell) -> float:
        """The share of a waiting cell that is not done."""
        reached = self._reached.get(item.cell.id)
        return 1.0 if reached is None else 1.0 - reached.share

    def view(self, stopping: bool = False) -> View:
        """What is to be seen of it now."""
        seen = self._seen()
        failed = self.failed + sum(record.status == "failed" for record in seen.records.values())
        return View(
            name=self._spec.name,
            metric=self._spec.metric,
            total=self._total,
            done=self._settled + len(seen.records) - failed,
            failed=failed,
            rows=[each.row() for each in self._look()],
            waiting=len(self._free(seen)),
            seconds=time.monotonic() - self._start,
            seconds_left=None if stopping else self._seconds_left(seen),
            elsewhere=[each.row() for each in seen.held.values()],
            left=len(self.held) if self._others is None else 0,
            stopping=stopping,
        )

    def running(self) -> list[PlannedCell]:
        """The cells that run here."""
        return [each.item for each in self._running.values()]

    def row(self, item: PlannedCell) -> Row:
        """How far a cell that runs is."""
        each = self._running[item.cell.id]
        each.look(self._results.run(item.cell.id))
        return each.row()

    def _seen(self, afresh: bool = False) -> Seen:
        """Of the cells that do not run here, those that others are at or have ended."""
        if self._others is None:
            return Seen()
        items = {item.cell.id: item for item in (*self.waiting, *self.held)}
        seen = self._others.look(items.values(), afresh)
        return Seen(
            {cell: record for cell, record in seen.records.items() if cell in items},
            {cell: each for cell, each in seen.held.items() if cell in items},
        )

    def _free(self, seen: Seen) -> list[PlannedCell]:
        """The cells that nobody is at."""
        items = self.waiting if self._others is None else [*self.waiting, *self.held]
        return [item for item in list(items) if not seen.has(item)]

    def _seconds_left(self, seen: Seen) -> float | None:
        # What others are at tells how many slots they have, as far as that can be seen.
        return time_left(
            [(item.cell, self._slots_of[item.cell.id], self._left_of(item)) for item in self._free(seen)],
            [each.underway() for each in self._look()] + [each.underway() for each in seen.held.values()],
            self._durations,
            self._slots + len(seen.held),
        )

    def _look(self) -> list[_Running]:
        running = list(self._running.values())
        for each in running:
            each.look(self._results.run(each.item.cell.id))
        return running

    def _line(self, item: PlannedCell, record: Record) -> str:
        spec, cell = self._spec, item.cell
        norms, trains = max(map(len, spec.norms)), max(map(len, spec.train))
        name = f"{cell.norm:<{norms}}  {cell.train:<{trains}}  seed {cell.seed}"
        if record.status == "failed":
            return f"{name}   FAILED: {record.reason} (log: {shown(self._results.folder / record.log)})"
        scale = 1 if spec.metric == "nll" else 100
        scores = []
        for label in spec.validate:
            value = record.validate[label]["metrics"].get(spec.metric)
            part = "" if covers_set(record.validate[label]) else " PART"
            scores.append(f"{label} {'nan' if value is None else f'{value * scale:.1f}'}{part}")
        return f"{name}   {'  '.join(scores)}"
