"""What becomes of a checkpoint whose steps held other samples than they would now."""

from __future__ import annotations

from typing import Any, Literal

from en_bench.data.position import Position
from en_bench.data.stream_state import StreamState
from en_bench.errors import InputError

OnChange = Literal["refuse", "next_epoch"]


class Changes:
    """What tells the checkpoint that a training goes on from apart from what its steps would hold now.

    Attributes:
        samples: whether the rows of the checkpoint's tables are other samples now.
        restarted_at: the epoch that a training goes on with whose steps have changed.
    """

    def __init__(self, on_change: OnChange) -> None:
        self._on_change = on_change
        self._differences: list[tuple[str, str]] = []  # with their cures
        self.samples = False
        self.restarted_at: int | None = None

    def compare(self, state: StreamState, saved: dict[str, Any]) -> None:
        """Compares the data of a checkpoint with these. Raises InputError, with all that differs, to refuse it."""
        self.samples = state.other_samples(saved)
        for difference, cure in state.differences(saved):
            self.note(difference, cure)
        self.refuse()

    def note(self, difference: str, cure: str) -> None:
        """Adds one."""
        self._differences.append((difference, cure))

    def refuse(self) -> None:
        """Raises InputError if there are any, unless `on_change` says to go on."""
        if self._differences and self._on_change == "refuse":
            differences, cures = (dict.fromkeys(column) for column in zip(*self._differences, strict=True))
            raise InputError(
                f"the checkpoint cannot be continued: {'; '.join(differences)}: {', '.join(cures)}, or "
                "--data.on_change next_epoch, which goes on with the next epoch"
            )

    def position(self, saved: Position, tells: bool) -> tuple[Position, bool]:
        """Where a training goes on that was saved at `saved`, and whether it is as if it had never stopped.

        The rank that `tells` prints what is left out.
        """
        if not self._differences:
            return saved, True
        if tells:
            told = "; ".join(dict.fromkeys(difference for difference, _ in self._differences))
            print(f"the steps have changed ({told}): what was left of the checkpoint's epoch is left out", flush=True)
        self.restarted_at = saved.epoch + (1 if saved.step else 0)
        return Position(self.restarted_at), False
