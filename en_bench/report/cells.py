"""Every cell with every number, for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

from en_bench.report.costs import COSTS
from en_bench.report.entries import METRICS
from en_bench.report.origin import label_rate, trained_labels, variant_told
from en_bench.report.sheet import Frame
from en_bench.report.tables import Table

_CELL = {"id": str, "state": str, "train": str, "norm": str, "seed": int, "validate": str, "adapted": int}
_COUNTED = {  # of a validation
    "set": str,
    "labels": str,
    "n": int,
    "unreadable": int,
    "whole_set": bool,
    "digest": str,
    "classes_digest": str,
}
_RECALIBRATED = {  # of the images that running moments were recalibrated on
    "recalibrated_set": ("set", str),
    "recalibrated_digest": ("digest", str),
    "recalibrated_samples": ("samples", int),
}
_IMAGES = [key for key, _ in _RECALIBRATED.values()]
_TRAINED_ON = {"train_set": ("set", str), "train_digest": ("digest", str), "train_n": ("n", int)}
_OWN = {  # columns of what a training says of its own accuracies
    "last_epoch_top1": ("last", "top1", float),
    "oracle_top1": ("best", "top1", float),
    "oracle_epoch": ("best", "epoch", int),
    "selected_top1": ("selected", "top1", float),
    "selected_epoch": ("selected", "epoch", int),
    "selected_held_out_top1": ("selected", "held_out", float),
}
_LABELS = {"train_labels": str, "labels_changed": float, "labels_wrong": float}  # that train, which share of them
_TRAINED = {"epochs": int, "device": str, "commit": str, "dirty": bool, "reason": str}


def cells_frame(table: Table) -> Frame:
    """One row per cell and column of the matrix, with every metric, the costs of the training and the origin of the
    numbers.

    The result of a stale or failed validation is left empty, as are the accuracies that a training says of itself where
    nothing of it holds; `state` says why.
    """
    planned = list(chain.from_iterable(table.groups.values()))
    found = {
        name
        for item in planned
        if item.record
        for result in (*item.record.validate.values(), *item.record.adapted.values())
        for name in result["metrics"]
    }
    metrics = [*METRICS, *sorted(found - set(METRICS))]
    rows: list[list[Any]] = []
    told: dict[str, str | None] = {}  # variants: few, in many cells
    for item in planned:
        fit = item.record.fit if item.record is not None else {}
        reason = item.record.reason if item.record is not None else None
        commit, cost = fit.get("commit") or {}, fit.get("cost") or {}
        own = (fit.get("accuracies") or {}) if item.fresh else {}
        train = fit.get("train") or {}
        of_training = [
            *(None if (value := cost.get(name)) is None else kind(value) for name, kind in COSTS.items()),
            *((own.get(name) or {}).get(key) for name, key, _ in _OWN.values()),
            *(train.get(key) for key, _ in _TRAINED_ON.values()),
            *(trained_labels(fit), label_rate(fit, "changed"), label_rate(fit, "wrong")),
            *(fit.get("epochs"), fit.get("device"), commit.get("sha"), commit.get("dirty"), reason),
        ]
        for column in table.columns.values():
            result = column.result(item) or {"metrics": {}}
            variant = result.get("variant")
            images = result.get("recalibrated") or {}
            if (key := repr(variant)) not in told:
                told[key] = variant_told(variant)
            rows.append(
                [
                    *(item.cell.id, item.state.value, item.cell.train, item.cell.norm, item.cell.seed),
                    *(column.label, int(column.adapted), *map(result.get, _COUNTED)),
                    *map(images.get, _IMAGES),
                    *(told[key], *(_number(result["metrics"], name) for name in metrics)),
                    *of_training,
                ]
            )
    recalibrated, own_scores, trained_on = (
        {name: kind for name, (*_, kind) in columns.items()} for columns in (_RECALIBRATED, _OWN, _TRAINED_ON)
    )
    of_results = {**_CELL, **_COUNTED, **recalibrated, "variant": str}
    of_trainings = {**COSTS, **own_scores, **trained_on, **_LABELS, **_TRAINED}
    others = of_results.keys() | of_trainings.keys()
    of_metrics = {f"metric {name}" if name in others else name: float for name in metrics}
    return Frame("cells", {**of_results, **of_metrics, **of_trainings}, rows)


def _number(metrics: Mapping[str, float | None], name: str) -> float | None:
    value = metrics.get(name)
    return math.nan if name in metrics and value is None else value
