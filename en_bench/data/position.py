"""Where a training stands: between two batches, in front of a validation or not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Position:
    """A place between two batches.

    Attributes:
        epoch: that is under way, or comes next, from 0.
        step: batches of it that each rank has trained on. 0 at its beginning, never at its end: there either a
            validation is due or the next epoch begins.
        validation_due: the batches so far call for a validation, which has not ended.
    """

    epoch: int = 0
    step: int = 0
    validation_due: bool = False

    def __str__(self) -> str:
        """For people, who count epochs from 1."""
        where = f"epoch {self.epoch + 1}" + (f", after {self.step} of its steps" if self.step else "")
        return where + (", before its validation" if self.validation_due else "")

    def to_fields(self) -> dict[str, Any]:
        return asdict(self)
