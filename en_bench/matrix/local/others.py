"""What other runners of the same matrix do meanwhile, in processes and on machines that share its folder of results."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from en_bench.matrix.glances import Glances, Rounds
from en_bench.matrix.lease import Found, Leases
from en_bench.matrix.local.live import Row
from en_bench.matrix.local.time_left import Underway
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.progress import Progress, read_progress, seconds_since_written
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results


@dataclass(frozen=True)
class Elsewhere:
    """A cell that another runner works on: `where`, what its commands told last, and how many seconds ago."""

    item: PlannedCell
    where: str
    progress: Progress | None
    silent: float

    def row(self) -> Row:
        return Row(str(self.item.cell), self.where, None, self.progress, silent=self.silent)

    def underway(self) -> Underway:
        """Since when is not known here."""
        progress, left = self.progress, None
        if progress is not None and progress.command == "fit" and progress.seconds_left is not None:
            left = max(0.0, progress.seconds_left - self.silent)
        return Underway(self.item.cell, None, left, progress is not None and progress.command != "fit")


@dataclass(frozen=True)
class Seen:
    """At a look: the records that others have written since the plan was made, by cell, and the cells they are at."""

    records: Mapping[str, Record] = field(default_factory=dict)
    held: Mapping[str, Elsewhere] = field(default_factory=dict)

    def has(self, item: PlannedCell) -> bool:
        return item.cell.id in self.records or item.cell.id in self.held


class Others:
    """Looks every few `seconds`, and for no more than a `share` of the time; at leases in slices of `slice_seconds`.

    Of cells that nobody has touched it reads nothing; a record it reads once, and a lease when it has changed.
    """

    def __init__(
        self, leases: Leases, results: Results, seconds: float = 3.0, share: float = 0.1, slice_seconds: float = 0.1
    ) -> None:
        self._leases, self._results, self._glances = leases, results, Glances(leases)
        self._rounds = Rounds[PlannedCell](seconds, share, slice_seconds)
        self._records: dict[str, Record] = {}
        self._held: dict[str, Elsewhere] = {}
        self._lock = threading.Lock()  # a thread tells of the run while the run itself looks

    def look(self, items: Iterable[PlannedCell], afresh: bool = False) -> Seen:
        """What has become of `items`, which this runner waits to run, or has left to others.

        `afresh` looks at records before the seconds are over, within the share.
        """
        with self._lock:
            with contextlib.suppress(OSError):  # a file server that is away comes back
                if afresh:
                    self._rounds.at_once(lambda: self._look_at_records(items))
                self._rounds.go(lambda: self._begin(items), self._look_at_lease)
            return Seen(dict(self._records), {c: each for c, each in self._held.items() if c not in self._records})

    def _begin(self, items: Iterable[PlannedCell]) -> list[PlannedCell]:
        """Looks at records; the cells without a new one that were leased at some time."""
        self._look_at_records(items)
        leased = set(os.listdir(self._leases.folder)) if self._leases.folder.exists() else set()
        return [item for item in items if item.cell.id in leased and item.cell.id not in self._records]

    def _look_at_records(self, items: Iterable[PlannedCell]) -> None:
        generations = self._results.generations()
        for item in items:
            cell = item.cell.id
            known = self._records.get(cell) or item.record
            before = known.generation if known is not None else 0
            if generations.get(cell, 0) > before:
                found = self._results.find(cell)
                if found is not None and found.generation > before:  # an older one stands for a newer that is damaged
                    self._records[cell] = found

    def _look_at_lease(self, item: PlannedCell) -> None:
        cell = item.cell.id
        with contextlib.suppress(OSError):  # of one cell: what another user denies hides no other
            holder = self._glances.holder(cell)
            if holder is None:
                self._held.pop(cell, None)
                return
            run = self._results.run(cell)
            silent = seconds_since_written(run, self._leases.clock)
            self._held[cell] = Elsewhere(item, where(holder), read_progress(run), silent)


def where(holder: Found) -> str:
    """The other machine, or the process of this one, or the job."""
    found = holder.holder
    if "pid" not in found or "host" not in found or found.get("kind") != "local":
        return holder.told()
    return f"process {found['pid']}" if found["host"] == socket.gethostname() else str(found["host"])
