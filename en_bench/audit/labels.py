"""The labels that an audit is about, and those it is measured by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from en_bench.data.info import CLEAN
from en_bench.data.manifest import Manifest
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
    """Of a data module that is set up for training.

    Clean are those of the column `clean`; where the split has none and the run made noise, the labels it made it of.
    """
    manifest, given = data.train_manifest, data.trained_labels
    assert manifest is not None
    held_out = data.held_out_labels != NO_PART
    given = np.where(held_out, data.held_out_labels, given).astype(given.dtype)
    column = _clean_column(manifest, data.labels, made_noise=data.noise is not None)
    return Labels(given, held_out, None if column is None else data.measured_labels(column), column)


def _clean_column(manifest: Manifest, labels: str, made_noise: bool) -> str | None:
    if CLEAN in manifest.columns and (labels != CLEAN or made_noise):
        return CLEAN
    return labels if made_noise else None
