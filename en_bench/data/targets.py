"""The class of each sample that a run reads, out of one label column and no other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from en_bench.data.index import Index
from en_bench.data.manifest import Manifest
from en_bench.errors import InputError

NO_PART = -1  # as a target: the sample takes no part

Targets = NDArray[np.int32]  # (N,) class of each row of the index, or NO_PART


def training_targets(manifest: Manifest, index: Index, labels: str) -> Targets:
    """Column `labels`, whose samples without a label take no part.

    Raises InputError for a column that the manifest lacks, and where no label is known.
    """
    if not manifest.columns:
        raise InputError(f"{manifest.folder} has masks and no labels: name a set of labelled images")
    if labels not in index.labels:
        raise InputError(
            f"{manifest.folder} has no label column '{labels}': choose one of {', '.join(manifest.columns)}"
        )
    targets = index.labels[labels]
    if not (targets >= 0).any():
        raise InputError(
            f"no sample of {manifest.folder} has a label in column '{labels}': choose another column or prepare the "
            "set with that label"
        )
    return targets


def scored_targets(manifest: Manifest, index: Index, labels: str) -> Targets:
    """Column `labels`, in which every sample needs a label, since a score is over all of them. Raises InputError."""
    targets = training_targets(manifest, index, labels)
    unknown = int((targets < 0).sum())
    if unknown:
        raise InputError(
            f"{unknown} of {len(index)} samples of {manifest.folder} have no label in column '{labels}': "
            "choose another column or prepare the set with that label"
        )
    return targets


def no_labels(count: int) -> Targets:
    """Targets (count,) that let every sample take part and tell nothing of it, for those who want images alone."""
    return np.zeros(count, dtype=np.int32)


def labelled_rows(manifest: Manifest, index: Index, labels: str) -> NDArray[np.int64]:
    """Rows of the index whose label in column `labels` is known, ascending. Raises InputError."""
    return np.flatnonzero(training_targets(manifest, index, labels) >= 0)
