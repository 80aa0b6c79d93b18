"""How well an epoch is mixed, by its order alone: nothing is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from en_bench.benchmark.data_material import Material
from en_bench.benchmark.data_settings import Settings, open_split
from en_bench.data.manifest import GIVEN
from en_bench.data.order import Indices, write_order
from en_bench.data.shuffle import Shuffle, shuffle_of
from en_bench.data.targets import labelled_rows

BATCH = 64
EPOCHS = 3  # over which figures are averaged
_IMAGENET, _CLASSES, _SHARDS = 1_281_167, 1000, 147  # samples; shards of the copy that most people download


def quality(order: Indices, labels: NDArray[np.int64], shards: NDArray[np.int64], batch: int) -> dict[str, float]:
    """Figures of one order of N samples, whose labels and shards are told by position. Whole batches count.

    Returns:
        run: mean length of runs of one class within batches.
        classes: mean number of classes in a batch.
        neighbours: share of pairs of samples next to each other, in a batch, that come from one shard.
    """
    rows = order[: len(order) // batch * batch].reshape(-1, batch)
    classes, origins = labels[rows], shards[rows]
    changes = int((classes[:, 1:] != classes[:, :-1]).sum())
    ordered = np.sort(classes, axis=1)
    distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
    return {
        "run": rows.size / (len(rows) + changes),
        "classes": float(distinct.mean()),
        "neighbours": float((origins[:, 1:] == origins[:, :-1]).mean()),
    }


def measure_mixing(settings: Settings, material: Material, tell: Callable[[str], None]) -> dict[str, Any]:
    """In `cases`, for the split and for one of ImageNet's size, the figures of our order and of a perfect one."""
    assert settings.shards is not None
    tell("shuffle")
    manifest = open_split(settings.shards)
    index = manifest.load_index()
    rows = labelled_rows(manifest, index, GIVEN)
    labels = index.labels[GIVEN][rows].astype(np.int64)
    counts = tuple(np.bincount(index.shard[rows], minlength=len(manifest.shards)).tolist())
    batch = min(BATCH, len(rows))
    cases = [
        _case("this split", "as written", shuffle_of(counts, 0, manifest.seed is not None), labels, batch),
        _case("this split", "sorted by class", shuffle_of(counts, 0, False), np.sort(labels), batch),
    ]
    if not settings.quick:
        classes = np.arange(_IMAGENET) * _CLASSES // _IMAGENET
        even = tuple(len(part) for part in np.array_split(classes, _SHARDS))
        mixed = classes[write_order(_IMAGENET, 0)]
        cases += [
            _case("ImageNet's size", "permuted when written", shuffle_of(even, 0, True), mixed, BATCH),
            _case("ImageNet's size", "sorted by class", shuffle_of(even, 0, False), classes, BATCH),
        ]
    return {"cases": cases}


def _case(split: str, written: str, shuffle: Shuffle, labels: NDArray[np.int64], batch: int) -> dict[str, Any]:
    counts = shuffle.counts
    shards = np.repeat(np.arange(len(counts)), counts)
    ours = [quality(shuffle.order(epoch), labels, shards, batch) for epoch in range(EPOCHS)]
    perfect = [quality(write_order(len(labels), 1 + seed), labels, shards, batch) for seed in range(EPOCHS)]
    return {
        "split": split,
        "written": written,
        "samples": len(labels),
        "classes": len(np.unique(labels)),
        "shards": len(counts),
        "batch": batch,
        **shuffle.facts(),
        "ours": _mean(ours),
        "perfect": _mean(perfect),
    }


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}
