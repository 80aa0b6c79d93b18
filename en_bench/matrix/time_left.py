"""How long a matrix will still take, from the cells that have ended and those that run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from en_bench.matrix.plan import Cell, PlannedCell


@dataclass(frozen=True)
class Underway:
    """A cell that runs: for `seconds` so far, in `slots` of the slots.

    `whole` is all its seconds as far as its training foresaw them, the validations after it left out; None before it
    did. `trained` is whether that training has ended.
    """

    cell: Cell
    seconds: float
    whole: float | None
    trained: bool = False
    slots: int = 1


@dataclass
class Durations:
    """Seconds of cells that were trained and validated, by normaliser and training set."""

    measured: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    recorded: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    @classmethod
    def of_records(cls, planned: Iterable[PlannedCell]) -> Durations:
        """Those of former runs, of which records hold the training only."""
        durations = cls()
        for item in planned:
            seconds = item.record.fit.get("cost", {}).get("seconds") if item.record is not None else None
            if isinstance(seconds, int | float) and seconds > 0:
                durations.recorded.setdefault((item.cell.norm, item.cell.train), []).append(float(seconds))
        return durations

    def add(self, cell: Cell, seconds: float) -> None:
        """A cell that has ended, timed from its beginning to its end."""
        self.measured.setdefault((cell.norm, cell.train), []).append(seconds)

    def expected(self, cell: Cell, underway: Sequence[Underway] = ()) -> float | None:
        """Of a whole cell. The first that is known of: cells that ended, that run, of former runs.

        Within each those of the same normaliser and set come first, then of the same normaliser, then all.
        """
        running: dict[tuple[str, str], list[float]] = {}
        for each in underway:
            if each.whole is not None:
                running.setdefault((each.cell.norm, each.cell.train), []).append(each.whole)
        for fits in (
            lambda norm, train: (norm, train) == (cell.norm, cell.train),
            lambda norm, train: norm == cell.norm,
            lambda norm, train: True,
        ):
            for known in (self.measured, running, self.recorded):
                found = [s for (norm, train), seconds in known.items() if fits(norm, train) for s in seconds]
                if found:
                    return median(found)
        return None


def time_left(
    waiting: Sequence[tuple[Cell, int]], underway: Sequence[Underway], durations: Durations, slots: int
) -> float | None:
    """Seconds until all is done; None while nothing tells. `waiting` are cells and how many slots each takes.

    All that is left is taken as shared out evenly over the slots, and as no shorter than the longest that runs.
    """
    work = longest = 0.0
    for each in underway:
        expected = durations.expected(each.cell, underway)
        if each.trained:
            left = 0.0  # validations are short, and what they took is in what is expected of the cells that wait
        elif each.whole is not None:
            left = max(0.0, each.whole - each.seconds)
        elif expected is not None:
            left = max(0.0, expected - each.seconds)
        else:
            return None
        work += left * each.slots
        longest = max(longest, left)
    for cell, wanted in waiting:
        expected = durations.expected(cell, underway)
        if expected is None:
            return None
        work += expected * wanted
    return max(work / slots, longest)
