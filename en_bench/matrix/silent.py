"""Cells whose holders may be dead: what a machine held that crashed can be taken only once it was silent for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from en_bench.duration import duration
from en_bench.matrix.glances import Glances, Rounds
from en_bench.matrix.lease import Found, Leases
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.processes import Condition, condition, this_machine

_BEATS_MISSED = 2


class SilentHolders:
    """Looks again and again at cells that others hold, until each holder gives a sign of life or counts as dead.

    `say` is given a line about each that has missed signs. Jobs of Slurm are no matter of silence: Slurm knows them.
    It looks every few `seconds`, in slices, and for no more than a `share` of the time.
    """

    def __init__(self, leases: Leases, say: Callable[[str], None], seconds: float = 2.0, share: float = 0.1) -> None:
        self._leases, self._glances, self._say = leases, Glances(leases), say
        self._rounds = Rounds[PlannedCell](seconds, share)
        self._first_sign: dict[tuple[str, int], float] = {}
        self._first_error: dict[str, float] = {}
        self._told: set[tuple[str, int]] = set()
        self._freed: set[tuple[str, int]] = set()
        # Of the round under way:
        self._seen: set[str] = set()
        self._unsettled = False  # a holder may be dead, or a cell is free

    def wait(self) -> None:
        """Sleeps until there is something to look at."""
        time.sleep(self._rounds.seconds_to_wait)

    def look(self, held: Sequence[PlannedCell]) -> list[PlannedCell] | None:
        """Those that can be taken by now; None once all others have holders that live."""
        if not held:
            return None
        free: list[PlannedCell] = []
        ids = {item.cell.id for item in held}

        def visit(item: PlannedCell) -> None:
            self._seen.add(item.cell.id)
            if item.cell.id in ids and self._is_free(item):
                free.append(item)

        ended = self._rounds.go(lambda: held, visit)
        self._unsettled = self._unsettled or bool(free)
        if not ended:
            return free
        more = self._unsettled or not ids <= self._seen
        self._seen, self._unsettled = set(), False
        return free if more else None

    def _is_free(self, item: PlannedCell) -> bool:
        """Whether it can be taken, as is said once of each lease: others may be faster."""
        cell = item.cell.id
        try:
            found = self._glances.find(cell)
        except OSError:  # a file server that is away comes back; a folder that refuses is left to others
            since = self._first_error.setdefault(cell, time.monotonic())
            self._unsettled = self._unsettled or time.monotonic() - since < self._leases.expires_seconds
            return False
        self._first_error.pop(cell, None)
        if found is not None and self._leases.is_held(found):
            self._unsettled = self._is_doubtful(item, found) or self._unsettled
            return False
        which = cell, 0 if found is None else found.number
        free = which not in self._freed
        self._freed.add(which)
        return free

    def _is_doubtful(self, item: PlannedCell, holder: Found) -> bool:
        """Whether it has given no sign of life since the first look."""
        if holder.holder.get("kind") != "local":
            return False
        here = holder.holder.get("machine") == this_machine()
        if here and condition(holder.holder.get("process")) is Condition.RUNS:
            return False
        beat = self._leases.beat_seconds
        missing = holder.silence > _BEATS_MISSED * beat
        which, sign = (item.cell.id, holder.number), time.monotonic() - holder.silence
        if sign > self._first_sign.setdefault(which, sign) + beat / 2:
            return False
        if missing and which not in self._told:
            self._told.add(which)
            left = duration(max(0.0, holder.expires_seconds - holder.silence))
            silent = f"silent for {duration(holder.silence)}, taken over in {left} unless it gives a sign of life"
            self._say(f"{item.cell}: held by {holder.told()}, {silent}")
        return True
