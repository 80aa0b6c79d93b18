"""The labels that an audit is about, and those it is measured by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from en_bench.data.module import ShardDataModule
from en_bench.data.targets import NO_PART, Targets


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels (N,) of the rows of a training split, NO_PART where unknown. Only what measures sees the clean ones.

    Attributes:
        given: those that trained, or that were held out.
        held_out: (N,) which samples were held out.
        clean: None where the split has none beside those that trained.
        clean_column: where they come from.
    """

    given: Targets
    held_out: NDArray[np.bool_]
    clean: Targets | None
    clean_column: str | None

    @property
    def known(self) -> NDArray[np.bool_]:
        """Samples (N,) of which it is known whether their label is wrong."""
        if self.clean is None:
            return np.zeros(len(self.given), np.bool_)
        known: NDArray[np.bool_] = (self.given != NO_PART) & (self.clean >= 0)
        return known

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Samples (N,) of which it is known that their label is wrong."""
        wrong: NDArray[np.bool_] = self.known & (self.given != (self.given if self.clean is None else self.clean))
        return wrong


def labels_of(data: ShardDataModule) -> Labels:
    """Of a data module that is set up for training."""
    assert data.training_labels is not None
    given, measured_by = data.trained_labels, data.training_labels.measured_by
    held_out = data.held_out_labels != NO_PART
    given = np.where(held_out, data.held_out_labels, given).astype(given.dtype)
    column, clean = (None, None) if measured_by is None else measured_by
    return Labels(given, held_out, clean, column)
