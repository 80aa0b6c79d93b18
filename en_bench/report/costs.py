"""What the trainings cost, beside what they score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import Any

from en_bench.duration import duration
from en_bench.matrix.plan import PlannedCell
from en_bench.report.entries import NOTHING
from en_bench.report.scores import SUMMARY, summary
from en_bench.report.sheet import Frame, Note, Sheet, computed, fields
from en_bench.report.tables import Table

COSTS: Mapping[str, type] = {
    "parameters": int,
    "flops": int,
    "images_per_second": float,
    "seconds": float,
    "peak_memory_bytes": int,
}
"""Of a training's record, with their types; `flops` are those of one image's forward pass."""


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _flops(value: float) -> str:
    return f"{value / 1e9:,.3f} G" if value >= 1e8 else f"{value / 1e6:,.2f} M"


def _memory(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB"


_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("parameters", _count),
    "flops": ("FLOPs per image", _flops),
    "images_per_second": ("images/s", _count),
    "seconds": ("time", duration),
    "peak_memory_bytes": ("peak memory", _memory),
}


def costs(group: Sequence[PlannedCell]) -> dict[str, list[float]]:
    """The values of COSTS of the trainings in a group that have a number in the matrix, by name."""
    found = [item.record.fit["cost"] for item in group if item.record is not None and item.fresh]
    return {name: [cost[name] for cost in found if isinstance(cost.get(name), int | float)] for name in COSTS}


def costs_sheet(table: Table) -> Sheet:
    """Means over seeds, by training set and normaliser, beside the score on the own validation set."""
    rows = []
    for train, norm in product(table.trains, table.norms):
        group = table.group(train, norm)
        counted = sum(item.record is not None and bool(item.fresh) for item in group)
        own = table.own.get(train)
        score = NOTHING if own is None else table.entries[train, norm, own].show(table.metric)
        found = costs(group)
        shown = [show(fmean(found[name])) if found[name] else NOTHING for name, (_, show) in _SHOWN.items()]
        rows.append(fields(train, norm, score, *shown, str(counted)))
    ways = dict.fromkeys(_way(item.record.fit) for item in _counted(table))
    notes = [
        Note(
            "means over the trainings of a row that have a number in the matrix; images/s and time of training alone, "
            "without validations; peak memory of the whole run; FLOPs of a forward pass over one image at the "
            "training's size, two per multiply-add, of what calls a convolution or a matrix product: of a normaliser "
            "its linear layers alone"
        )
    ]
    if len(ways) > 1:
        notes.append(Note("; ".join(ways), "images/s, time and memory do not compare between"))
    return Sheet(
        "costs",
        "Costs beside scores",
        f"Costs beside scores: {table.headline} on the own validation set, and what a training cost",
        ["trained on", "normaliser", "score", *(head for head, _ in _SHOWN.values()), "trainings"],
        2,
        rows,
        notes,
    )


def _way(fit: Mapping[str, Any]) -> str:
    """Device, ranks and images per rank of a training: costs compare only where these are the same."""
    batch = fit.get("batch") or {}
    per_rank = batch.get("per_rank") or ((fit.get("config") or {}).get("data") or {}).get("batch_size")
    ranks = fit.get("ranks", "?")
    times = batch.get("accumulated") or 1
    accumulated = f" x {times} accumulated" if times > 1 else ""
    return f"{fit.get('device', '?')}, {ranks} rank{'s' * (ranks != 1)} x {per_rank or '?'}{accumulated}"


def _counted(table: Table) -> list[Any]:
    return [item for group in table.groups.values() for item in group if item.record is not None and item.fresh]


def costs_frame(table: Table) -> Frame:
    """One row per training set and normaliser."""
    rows: list[list[Any]] = []
    for train, norm in product(table.trains, table.norms):
        found = costs(table.group(train, norm))
        own = table.own.get(train)
        score = [None] * len(SUMMARY) if own is None else summary(table.entries[train, norm, own])
        rows.append(
            [train, norm, own, table.spec.metric, *score, *(computed(fmean(v)) if v else None for v in found.values())]
        )
    stub = dict.fromkeys(("train", "norm", "validate", "metric"), str)
    return Frame("costs", {**stub, **SUMMARY, **dict.fromkeys(COSTS, float)}, rows)
