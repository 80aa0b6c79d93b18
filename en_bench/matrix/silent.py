"""Cells whose holders may be dead: what a machine held that crashed can be taken only once it was silent for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from en_bench.duration import duration
from en_bench.matrix.lease import Found, Leases
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.processes import is_at_work, this_machine

_BEATS_MISSED = 2


@dataclass
class SilentHolders:
    """Looks again and again at cells that others hold, until each holder gives a sign of life or counts as dead.

    `say` is given a line about each that has missed signs. Jobs of Slurm are no matter of silence: Slurm knows them.
    """

    leases: Leases
    say: Callable[[str], None]
    seconds: float = 2.0
    _first_sign: dict[tuple[str, int], float] = field(default_factory=dict)
    _told: set[tuple[str, int]] = field(default_factory=set)
    _freed: set[tuple[str, int]] = field(default_factory=set)
    _next: float = 0.0

    def look(self, held: list[PlannedCell]) -> list[PlannedCell] | None:
        """Those that can be taken by now; None once all others have holders that live. Looks every few `seconds`."""
        if time.monotonic() < self._next:
            return []
        free, doubtful = [], False
        for item in held:
            cell = item.cell.id
            holder = self.leases.holder(cell)
            if holder is not None:
                doubtful = self._is_doubtful(item, holder) or doubtful
            elif (which := (cell, self._last(cell))) not in self._freed:  # once: others may be faster
                self._freed.add(which)
                free.append(item)
        self._next = time.monotonic() + self.seconds
        return free if free or doubtful else None

    def _is_doubtful(self, item: PlannedCell, holder: Found) -> bool:
        """Whether it has given no sign of life since the first look."""
        if holder.holder.get("kind") != "local":
            return False
        if holder.holder.get("machine") == this_machine() and is_at_work(holder.holder.get("process")):
            return False
        beat = self.leases.beat_seconds
        missing = holder.silence > _BEATS_MISSED * beat
        which, sign = (item.cell.id, holder.number), time.monotonic() - holder.silence
        if sign > self._first_sign.setdefault(which, sign) + beat / 2:
            return False
        if missing and which not in self._told:
            self._told.add(which)
            left = duration(max(0.0, holder.expires_seconds - holder.silence))
            silent = f"silent for {duration(holder.silence)}, taken over in {left} unless it gives a sign of life"
            self.say(f"{item.cell}: held by {holder.told()}, {silent}")
        return True

    def _last(self, cell: str) -> int:
        found = self.leases.find(cell)
        return 0 if found is None else found.number
