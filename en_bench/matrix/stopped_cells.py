"""Cells that somebody's signals stop again and again, as a watch over memory does that sends SIGTERM first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from en_bench.matrix.plan import PlannedCell
from en_bench.resume.reached import Reached

_MOST = 3
_SHARE = 0.01  # of the steps of a training


@dataclass(frozen=True)
class Standing:
    """How far a cell is: how many of its commands are left, and what the training has reached that goes on."""

    commands_left: int
    reached: Reached | None

    def is_beyond(self, before: Standing) -> bool:
        """Whether a command has ended since, or a hundredth of the training is done (a step, if it has no end)."""
        if self.commands_left != before.commands_left or self.reached is None:
            return self.commands_left < before.commands_left
        begun = 0 if before.reached is None else before.reached.step
        return self.reached.step - begun >= max(1.0, _SHARE * (self.reached.steps or 0))


@dataclass
class StoppedCells:
    """Counts how often in a row each cell was stopped with hardly anything gained; `standing` tells how far one is."""

    standing: Callable[[PlannedCell], Standing]
    _last: dict[str, tuple[int, Standing]] = field(default_factory=dict)

    def stopped(self, item: PlannedCell) -> str | None:
        """A signal that nobody has sent to this run has stopped a cell. Returns why it is not to be taken up again."""
        now = self.standing(item)
        count, before = self._last.get(item.cell.id, (0, None))
        count = 1 if before is None or now.is_beyond(before) else count + 1
        self._last[item.cell.id] = count, now
        if count < _MOST:
            return None
        return f"signals stopped it {_MOST} times in a row, with less than {_SHARE:.0%} of its training in between"


def told_of_stopped(item: PlannedCell, what: str) -> str:
    """The line about a cell that is taken up again; `what` was stopped."""
    return f"{item.cell}: its {what} was asked to stop: it is taken up again from what was saved"
