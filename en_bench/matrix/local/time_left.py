"""How long a matrix will still take, from the cells that have ended and those that run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from en_bench.matrix.plan import Cell, PlannedCell


@dataclass(frozen=True)
class Underway:
    """A cell that runs: for `seconds` so far, None where that is not known, in `slots` of the slots.

    `left` are the seconds that its training foresees, the validations after it left out; None before it does.
    `trained` is whether that training has ended.
    """

    cell: Cell
    seconds: float | None
    left: float | None
    trained: bool = False
    slots: int = 1

    @property
    def whole(self) -> float | None:
        """All its seconds, the validations left out."""
        return None if self.seconds is None or self.left is None else self.seconds + self.left


class _Seconds:
    """Durations of cells, of which medians are wanted again and again: of a normaliser and a set, of one, of all."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], list[float]] = {}
        self._medians: dict[tuple[str, ...], float] = {}

    def add(self, cell: Cell, seconds: float) -> None:
        for key in _keys(cell):
            self._found.setdefault(key, []).append(seconds)
            self._medians.pop(key, None)

    def median(self, key: tuple[str, ...]) -> float | None:
        """None where there are none. Iterates over nothing that another thread may change meanwhile."""
        found = self._medians.get(key)
        if found is None and key in self._found:
            found = self._medians[key] = median(self._found[key])
        return found


def _keys(cell: Cell) -> tuple[tuple[str, ...], ...]:
    return (cell.norm, cell.train), (cell.norm,), ()


@dataclass
class Durations:
    """Seconds of cells that were trained and validated, by normaliser and training set."""

    measured: _Seconds = field(default_factory=_Seconds)
    recorded: _Seconds = field(default_factory=_Seconds)

    @classmethod
    def of_records(cls, planned: Iterable[PlannedCell]) -> Durations:
        """Those of former runs, of which records hold the training only."""
        durations = cls()
        for item in planned:
            seconds = item.record.fit.get("cost", {}).get("seconds") if item.record is not None else None
            if isinstance(seconds, int | float) and seconds > 0:
                durations.recorded.add(item.cell, float(seconds))
        return durations

    def add(self, cell: Cell, seconds: float) -> None:
        """A cell that has ended, timed from its beginning to its end."""
        self.measured.add(cell, seconds)

    def expected(self, cell: Cell, running: _Seconds | None = None) -> float | None:
        """Of a whole cell. The first that is known of: cells that ended, that run, of former runs.

        Within each those of the same normaliser and set come first, then of the same normaliser, then all.
        """
        for key in _keys(cell):
            for known in (self.measured, running, self.recorded):
                if known is not None and (found := known.median(key)) is not None:
                    return found
        return None


def time_left(
    waiting: Sequence[tuple[Cell, int, float]], underway: Sequence[Underway], durations: Durations, slots: int
) -> float | None:
    """Seconds until all is done; None while nothing tells. `waiting` are cells, how many slots each takes, and the
    share of each that is not done.

    All that is left is taken as shared out evenly over the slots, and as no shorter than the longest that runs.
    """
    work = longest = 0.0
    running = _Seconds()
    for each in underway:
        if each.whole is not None:
            running.add(each.cell, each.whole)
    for each in underway:
        expected = durations.expected(each.cell, running)
        seconds = each.seconds or 0.0
        if each.trained:
            left = 0.0  # validations are short, and what they took is in what is expected of the cells that wait
        elif each.left is not None:
            left = each.left
        elif expected is not None:
            left = max(0.0, expected - seconds)
        else:
            return None
        work += left * each.slots
        longest = max(longest, left)
    for cell, wanted, share in waiting:
        expected = durations.expected(cell, running)
        if expected is None:
            return None
        work += expected * wanted * share
    return max(work / slots, longest)
