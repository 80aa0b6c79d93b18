"""The labels that train: a column of the split, with noise or without, and what is known of their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from en_bench.data.index import Index
from en_bench.data.manifest import Manifest
from en_bench.data.shard_cache import ShardCache
from en_bench.data.targets import Targets, training_targets
from en_bench.noise.base import Labels, Noise
from en_bench.noise.small_images import read_small_images
from en_bench.noise.transition import transition_counts

CLEAN = "clean"
_MOST_CLASSES = 100  # whose matrix of counts is written out: with a thousand it would be a million numbers


@dataclass(frozen=True, eq=False)
class TrainingLabels:
    """The labels of a training split, over all rows of its index.

    Attributes:
        column: that they start from.
        noise: that was added to it, if any.
        stored: (N,) the column as it is stored, -1 where unknown.
        targets: (N,) with the noise: these train.
        clean: (N,) column `clean`, None where the set has none. It only measures.
        classes: names.
        known: what the manifest says of the noise of the column.
    """

    column: str
    noise: Noise | None
    stored: Labels
    targets: Targets
    clean: Labels | None
    classes: tuple[str, ...]
    known: Mapping[str, Any] | None

    @property
    def measured_by(self) -> tuple[str, Labels] | None:
        """The column, and its labels (N,), that tell which of those that train are wrong; None where nothing does.

        That is `clean`; in a set without it, the labels that noise was made of.
        """
        if self.clean is not None and (self.noise is not None or self.column != CLEAN):
            return CLEAN, self.clean
        return (self.column, self.stored) if self.noise is not None else None

    def facts(self) -> dict[str, Any]:
        """For the record.

        `labels`, `stored` (what the manifest says of the column's noise) and `made` (kind, arguments and seed of what
        was added) say what trains; `changed` is what was made of the stored labels, and `wrong` how those that train
        differ from the clean ones. Each of these two has n, the samples whose two labels are known, count, rate, and
        the matrix of counts, from row to column. None stands for what there is not.
        """
        changed = None if self.noise is None else _differences(self.stored, self.targets, self.classes)
        wrong = None
        if self.clean is not None and (self.noise is not None or self.column != CLEAN):
            wrong = _differences(self.clean, self.targets, self.classes)
        made = None if self.noise is None else self.noise.describe()
        stored = None if self.known is None else dict(self.known)
        return {"labels": self.column, "made": made, "stored": stored, "changed": changed, "wrong": wrong}

    def line(self) -> str | None:
        """What a training says of its labels when it starts; None where they are stored and none is known as wrong."""
        facts = self.facts()
        changed, wrong = facts["changed"], facts["wrong"]
        told = []
        if changed is not None:
            told.append(f"{_percent(changed)} of {changed['n']:,} changed")
        if wrong is not None and wrong["count"] and (changed is None or wrong["count"] != changed["count"]):
            told.append(f"{_percent(wrong)} of {wrong['n']:,} are not the clean ones")
        made = f" + {self.noise}" if self.noise is not None else ""
        return f"labels: {self.column}{made}: {', '.join(told)}" if told else None


def load_training_labels(
    manifest: Manifest, index: Index, column: str, noise: Noise | None, cache: ShardCache
) -> TrainingLabels:
    """Column `column` of the split, with `noise`. Noise that needs images reads them, far ones through `cache`.

    Raises InputError for a column that cannot train, and for noise that cannot be made with the set's classes.
    """
    stored = training_targets(manifest, index, column)
    targets = stored
    if noise is not None:
        images = partial(read_small_images, manifest, index, cache)
        targets = noise.apply(stored, index.keys, manifest.classes, images)
    return TrainingLabels(
        column, noise, stored, targets, index.labels.get(CLEAN), manifest.classes, manifest.noise.get(column)
    )


def _differences(before: Labels, after: Labels, classes: Sequence[str]) -> dict[str, Any]:
    known = (before >= 0) & (after >= 0)
    n, count = int(known.sum()), int((before != after)[known].sum())
    small = len(classes) <= _MOST_CLASSES
    matrix = transition_counts(before, after, len(classes)).tolist() if small else None
    return {"n": n, "count": count, "rate": count / n if n else None, "matrix": matrix}


def _percent(differences: dict[str, Any]) -> str:
    return f"{100 * (differences['rate'] or 0):.2f} %"
