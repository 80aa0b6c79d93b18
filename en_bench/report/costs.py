"""What the trainings cost, beside what they score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
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

_OF_THE_WAY = ("images_per_second", "seconds", "peak_memory_bytes")  # the others are of the network
_SINGLE = ("32-true", "32")
_RUN = "run on"


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


@dataclass(frozen=True)
class Costs:
    """What the trainings of a row cost that have a number in the matrix, and in which `ways` they ran."""

    trainings: int
    values: Mapping[str, Sequence[float]]
    ways: Sequence[str]

    def mean(self, name: str) -> float | None:
        """The mean of one of COSTS; None where there is none, or where it would be over several ways to run."""
        compares = name not in _OF_THE_WAY or len(self.ways) < 2
        return fmean(self.values[name]) if self.values[name] and compares else None


def costs(group: Sequence[PlannedCell]) -> Costs:
    """The costs of a group of cells that differ in their seed."""
    fits = [item.record.fit for item in group if item.record is not None and item.fresh]
    found = [fit["cost"] for fit in fits]
    values = {name: [cost[name] for cost in found if isinstance(cost.get(name), int | float)] for name in COSTS}
    return Costs(len(fits), values, list(dict.fromkeys(map(way, fits))))


def way(fit: Mapping[str, Any]) -> str:
    """Device, ranks, images per rank and precision of a training: time and memory compare where these are the same.

    Precision is told where it is another than single, which Lightning trains in unless told otherwise.
    """
    batch = fit.get("batch") or {}
    config = fit.get("config") or {}
    per_rank = batch.get("per_rank") or (config.get("data") or {}).get("batch_size")
    ranks = fit.get("ranks", "?")
    times = batch.get("accumulated") or 1
    accumulated = f" x {times} accumulated" if times > 1 else ""
    precision = str((config.get("trainer") or {}).get("precision") or _SINGLE[0])
    told = "" if precision in _SINGLE else f", {precision}"
    return f"{fit.get('device', '?')}, {ranks} rank{'s' * (ranks != 1)} x {per_rank or '?'}{accumulated}{told}"


def costs_sheet(table: Table) -> Sheet:
    """Means over seeds, by training set and normaliser, beside the score on the own validation set."""
    found = _by_row(table)
    ways = list(dict.fromkeys(chain.from_iterable(row.ways for row in found.values())))
    rows = []
    for (train, norm), row in found.items():
        own = table.own.get(train)
        score = NOTHING if own is None else table.entries[train, norm, own].show(table.metric)
        means = [(row.mean(name), show) for name, (_, show) in _SHOWN.items()]
        shown = [NOTHING if mean is None else show(mean) for mean, show in means]
        numbers = [" ".join(_number(ways, one) for one in row.ways) or NOTHING] * (len(ways) > 1)
        rows.append(fields(train, norm, score, *shown, str(row.trainings), *numbers))
    notes = [
        Note(
            "means over the trainings of a row that have a number in the matrix; images/s and time of training alone, "
            "without validations; peak memory of the whole run; FLOPs of a forward pass over one image at the "
            "training's size, two per multiply-add, of what calls a convolution or a matrix product: of a normaliser "
            "its linear layers alone"
        )
    ]
    if len(ways) > 1:
        compared = "images/s, time and memory compare only between rows with the same number"
        notes.append(Note(f"{compared}; a row with several has {NOTHING}", _RUN))
        notes += [Note(one, _number(ways, one)) for one in ways]
    elif ways:
        notes.append(Note(ways[0], _RUN))
    return Sheet(
        "costs",
        "Costs beside scores",
        f"Costs beside scores: {table.headline} on the own validation set, and what a training cost",
        ["trained on", "normaliser", "score", *(head for head, _ in _SHOWN.values()), "trainings"]
        + [_RUN] * (len(ways) > 1),
        2,
        rows,
        notes,
    )


def _by_row(table: Table) -> dict[tuple[str, str], Costs]:
    return {(train, norm): costs(table.group(train, norm)) for train, norm in product(table.trains, table.norms)}


def _number(ways: Sequence[str], one: str) -> str:
    return f"[{ways.index(one) + 1}]"


def costs_frame(table: Table) -> Frame:
    """One row per training set and normaliser; `run_on` holds all ways in which its trainings ran."""
    rows: list[list[Any]] = []
    for (train, norm), row in _by_row(table).items():
        own = table.own.get(train)
        score = [None] * len(SUMMARY) if own is None else summary(table.entries[train, norm, own])
        means = [computed(row.mean(name)) for name in COSTS]
        rows.append([train, norm, own, table.spec.metric, *score, row.trainings, "; ".join(row.ways) or None, *means])
    stub = dict.fromkeys(("train", "norm", "validate", "metric"), str)
    of_trainings = {"trainings": int, "run_on": str, **dict.fromkeys(COSTS, float)}
    return Frame("costs", {**stub, **SUMMARY, **of_trainings}, rows)
