"""What other runners of the same matrix do meanwhile, in processes and on machines that share its folder of results."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from en_bench.matrix.lease import Found, Leases
from en_bench.matrix.local.live import Row
from en_bench.matrix.local.time_left import Underway
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.progress import Progress, read_progress
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results


@dataclass(frozen=True)
class Elsewhere:
    """A cell that another runner works on: `where`, and what its commands told last."""

    item: PlannedCell
    where: str
    progress: Progress | None

    def row(self) -> Row:
        return Row(str(self.item.cell), self.where, None, self.progress)

    def underway(self) -> Underway:
        """Since when is not known here."""
        progress, left = self.progress, None
        if progress is not None and progress.command == "fit" and progress.seconds_left is not None:
            left = max(0.0, progress.seconds_left - max(0.0, time.time() - progress.time))
        return Underway(self.item.cell, None, left, progress is not None and progress.command != "fit")


@dataclass(frozen=True)
class Seen:
    """At a look: the records that others have written since the plan was made, by cell, and the cells they are at."""

    records: Mapping[str, Record] = field(default_factory=dict)
    held: Mapping[str, Elsewhere] = field(default_factory=dict)

    def has(self, item: PlannedCell) -> bool:
        return item.cell.id in self.records or item.cell.id in self.held


@dataclass
class Others:
    """Looks every few `seconds`, and for no more than a `share` of the time.

    Of cells that nobody has touched it reads nothing; a record it reads once.
    """

    leases: Leases
    results: Results
    seconds: float = 3.0
    share: float = 0.1  # on a slow shared folder a look takes long
    _seen: Seen = field(default_factory=Seen)
    _looked: float | None = None
    _rest: float = 0.0  # seconds that the share asks for after the last look

    def look(self, items: Iterable[PlannedCell], afresh: bool = False) -> Seen:
        """What has become of `items`, which this runner waits to run, or has left to others.

        `afresh` looks before the seconds are over, within the share.
        """
        began = time.monotonic()
        rest = self._rest if afresh else max(self.seconds, self._rest)
        if self._looked is None or began >= self._looked + rest:
            with contextlib.suppress(OSError):  # a file server that is away comes back
                self._seen = self._look(items)
            self._looked = time.monotonic()
            self._rest = (self._looked - began) / self.share
        return self._seen

    def _look(self, items: Iterable[PlannedCell]) -> Seen:
        generations = self.results.generations()
        leased = set(os.listdir(self.leases.folder)) if self.leases.folder.exists() else set()
        records, held = dict(self._seen.records), {}
        for item in items:
            cell = item.cell.id
            known = records.get(cell) or item.record
            before = known.generation if known is not None else 0
            if generations.get(cell, 0) > before:
                found = self.results.find(cell)
                if found is not None and found.generation > before:  # an older one stands for a newer that is damaged
                    records[cell] = found
            if cell in records or cell not in leased:
                continue
            holder = self.leases.holder(cell)
            if holder is not None:
                held[cell] = Elsewhere(item, where(holder), read_progress(self.results.run(cell)))
        return Seen(records, held)


def where(holder: Found) -> str:
    """The other machine, or the process of this one, or the job."""
    found = holder.holder
    if "pid" not in found or "host" not in found or found.get("kind") != "local":
        return holder.told()
    return f"process {found['pid']}" if found["host"] == socket.gethostname() else str(found["host"])
