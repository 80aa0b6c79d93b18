"""The labels that train: a column of the split, with noise or without, and what is known of their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from en_bench.data.held_out import is_held_out
from en_bench.data.index import Index
from en_bench.data.info import CLEAN
from en_bench.data.manifest import Manifest
from en_bench.data.shard_cache import ShardCache
from en_bench.data.targets import Targets, training_targets
from en_bench.errors import InputError
from en_bench.noise.added_twice import same_seed
from en_bench.noise.base import Labels, Noise
from en_bench.noise.reading_images import read_small_images
from en_bench.noise.transition import transition_counts

_MOST_CLASSES = 100  # whose matrix of counts is written out: with a thousand it would be a million numbers


@dataclass(frozen=True, eq=False)
class TrainingLabels:
    """The labels of a training split, over all rows of its index.

    Attributes:
        column: that they start from.
        noise: that was added to it, if any.
        stored: (N,) the column as it is stored, -1 where unknown.
        targets: (N,) with the noise: these train.
        measured_by: a column, and its labels (N,), that tell which of those that train are wrong; None where nothing
            does. It only measures. It is `clean`; in a set without it, the column that noise was added to, now or when
            the set was prepared.
        classes: names.
        known: what the manifest says of the noise of the column.
        held_out: (N,) which samples never train.
    """

    column: str
    noise: Noise | None
    stored: Labels
    targets: Targets
    measured_by: tuple[str, Labels] | None
    classes: tuple[str, ...]
    known: Mapping[str, Any] | None
    held_out: NDArray[np.bool_]

    def facts(self) -> dict[str, Any]:
        """For the record.

        `labels`, `stored` (what the manifest says of the column's noise) and `made` (kind, arguments and seed of what
        was added) say what trains; `changed` is what was made of the stored labels, and `wrong` how those that train
        differ from those of the column `measured_by`. Each of these two has n, the samples that train and whose two
        labels are known, count, rate, and the matrix of counts, from row to column; `held_out` has both for the samples
        that are held out. None stands for what there is not.
        """
        return {
            "labels": self.column,
            "made": None if self.noise is None else self.noise.describe(),
            "stored": None if self.known is None else dict(self.known),
            "measured_by": None if self.measured_by is None else self.measured_by[0],
            **self._errors(~self.held_out),
            "held_out": self._errors(self.held_out) if self.held_out.any() else None,
        }

    def _errors(self, part: NDArray[np.bool_]) -> dict[str, Any]:
        """`changed` and `wrong` of a part (N,) of the samples."""
        after = self.targets[part]
        before = {
            "changed": None if self.noise is None else self.stored[part],
            "wrong": None if self.measured_by is None else self.measured_by[1][part],
        }
        return {
            name: None if labels is None else _differences(labels, after, self.classes)
            for name, labels in before.items()
        }

    def line(self) -> str | None:
        """What a training says of its labels when it starts; None where they are stored and none is known as wrong."""
        errors = self._errors(~self.held_out)
        changed, wrong = errors["changed"], errors["wrong"]
        told = []
        if changed is not None:
            told.append(f"{_percent(changed)} of {changed['n']:,} changed")
        if wrong is not None and (wrong["count"] if changed is None else self._wrong_before()):
            assert self.measured_by is not None
            than = "are not the clean ones" if self.measured_by[0] == CLEAN else f"differ from {self.measured_by[0]}"
            told.append(f"{_percent(wrong)} of {wrong['n']:,} {than}")
        made = f" + {self.noise}" if self.noise is not None else ""
        return f"labels: {self.column}{made}: {', '.join(told)}" if told else None

    def _wrong_before(self) -> bool:
        """Whether some label that trains was wrong before noise was added."""
        if self.measured_by is None:
            return False
        right = self.measured_by[1]
        known = ~self.held_out & (self.stored >= 0) & (right >= 0)
        return bool((self.stored != right)[known].any())


def load_training_labels(
    manifest: Manifest, index: Index, column: str, noise: Noise | None, cache: ShardCache, share: float = 0.0
) -> TrainingLabels:
    """Column `column` of the split, with `noise`. Noise that needs images reads them, far ones through `cache`.

    `share` is that of the held-out part.

    Raises InputError for a column that cannot train, for noise that cannot be made with the set's classes, and for
    noise of the seed that made the column.
    """
    stored = training_targets(manifest, index, column)
    targets = stored
    if noise is not None:
        if (before := same_seed(noise, column, manifest.noise)) is not None:
            start = f", or start from --data.labels {before.origin}" if before.origin in index.labels else ""
            raise InputError(
                f"--data.noise on labels {column!r} of {manifest.dataset}/{manifest.split}: {before}: use "
                f"--data.noise.seed {before.free_seed}{start}"
            )
        images = partial(read_small_images, manifest, index, cache)
        targets = noise.apply(stored, index.keys, manifest.classes, images)
    known = manifest.noise.get(column)
    origins = (CLEAN, str((known or {}).get("from")), column)
    origin = next(name for name in origins if name in index.labels)
    measured_by = (origin, index.labels[origin]) if noise is not None or origin != column else None
    held_out = is_held_out(index.keys, share)
    return TrainingLabels(column, noise, stored, targets, measured_by, manifest.classes, known, held_out)


def _differences(before: Labels, after: Labels, classes: Sequence[str]) -> dict[str, Any]:
    known = (before >= 0) & (after >= 0)
    n, count = int(known.sum()), int((before != after)[known].sum())
    small = len(classes) <= _MOST_CLASSES
    matrix = transition_counts(before, after, len(classes)).tolist() if small else None
    return {"n": n, "count": count, "rate": count / n if n else None, "matrix": matrix}


def _percent(differences: dict[str, Any]) -> str:
    return f"{100 * (differences['rate'] or 0):.2f} %"
