"""The held-out part of a training split: cut by the samples' keys, scored on the labels that train, never trained on.

A sample is held out where u(key) < share. u is the one number in [0, 1) that `draws` gives for (HASH_SEED, 0, key), a
SplitMix64 hash of the key's bytes. So it depends on nothing but the key: not on the run's seed, the ranks, the labels
or the other samples, and what a share holds out, every larger share holds out too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from en_bench.data.draws import draws
from en_bench.data.targets import NO_PART, Targets
from en_bench.errors import InputError

HASH_SEED = int.from_bytes(b"held_out", "little")  # of no augmentation: seeds of runs are small
MOST = 0.9  # of a split


def check_share(share: float) -> None:
    """Raises InputError for a share that no part of a split can have."""
    if not 0 <= share <= MOST:
        raise InputError(f"--data.held_out {share} is no share of a training split: use 0 (none) .. {MOST}")


def is_held_out(keys: NDArray[np.bytes_], share: float) -> NDArray[np.bool_]:
    """Which of the samples (N,) with these keys (N,) are held out."""
    held_out: NDArray[np.bool_] = draws(keys, HASH_SEED, 0, 1)[:, 0] < share
    return held_out


class Parts(NamedTuple):
    """Targets (N,) of the two parts of a split. Where a sample is in the one, the other has NO_PART."""

    trained: Targets
    held_out: Targets

    @property
    def train_count(self) -> int:
        """Samples with a label that train."""
        return int((self.trained != NO_PART).sum())

    @property
    def held_out_count(self) -> int:
        """Samples with a label that are held out."""
        return int((self.held_out != NO_PART).sum())


def cut(targets: Targets, keys: NDArray[np.bytes_], share: float, name: str) -> Parts:
    """The parts of the split `name`, whose samples have these targets (N,) and keys (N,).

    Raises InputError where either would have no sample with a label, though the share is above 0.
    """
    out = is_held_out(keys, share)
    parts = Parts(*(np.where(part, targets, NO_PART).astype(targets.dtype) for part in (~out, out)))
    counts = parts.train_count, parts.held_out_count
    if share > 0 and 0 in counts:
        does, cure = ("leaves nothing to train on", "less") if counts[0] == 0 else ("holds out none", "more")
        raise InputError(
            f"--data.held_out {share} {does} of the {sum(counts)} samples of {name} that have a label: use {cure}, or "
            "a larger set"
        )
    return parts
