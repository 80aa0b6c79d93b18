"""What a matrix's trainings measured epoch by epoch, from their runs' metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.results import Results
from en_bench.matrix.training import finished_fit

Curve = Sequence[tuple[int, float]]
"""Points (epoch, counted from 1; value)."""

Curves = Mapping[tuple[str, str], Sequence[Curve]]
"""A curve per seed, by training set and normaliser."""

NOISE: Mapping[str, str] = {
    "val/top1": "validation set, top-1",
    "held_out/top1": "held-out part, top-1\n(labels that train)",
    "memory/right_learnt": "rightly labelled:\nlearnt",
    "memory/wrong_as_given": "wrongly labelled:\npredicted as given",
    "memory/wrong_as_clean": "wrongly labelled:\npredicted as clean",
    "memory/wrong_as_neither": "wrongly labelled:\npredicted as neither",
}
"""Metrics, shares in 0 .. 1, that tell what a training makes of its labels, in the order of the page."""


def read_curves(path: Path, names: Iterable[str]) -> dict[str, Curve]:
    """The values of some metrics in a `metrics.jsonl`, by epoch; without those that are not in it, or without it.

    Of several values of an epoch the last counts. Lines that are no JSON mapping (a killed run may leave half a line)
    are passed over.
    """
    by_epoch: dict[str, dict[int, float]] = {name: {} for name in names}
    if not path.is_file():
        return {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("epoch"), int):
            for name, values in by_epoch.items():
                if isinstance(row.get(name), int | float):
                    values[row["epoch"] + 1] = float(row[name])
    return {name: sorted(values.items()) for name, values in by_epoch.items() if values}


def training_curves(results: Results, planned: Sequence[PlannedCell], names: Sequence[str]) -> dict[str, Curves]:
    """By metric, where the runs still lie beside the records; without metrics that nobody has.

    A cell whose validations are still to come has its curve as well, a stale one has none.
    """
    found: dict[str, dict[tuple[str, str], list[Curve]]] = {}
    for item in planned:
        if item.state in (State.DONE, State.FAILED) or _is_trained(results, item):
            for name, curve in read_curves(results.run(item.cell.id) / "metrics.jsonl", names).items():
                found.setdefault(name, {}).setdefault((item.cell.train, item.cell.norm), []).append(curve)
    return {name: found[name] for name in names if name in found}


def _is_trained(results: Results, item: PlannedCell) -> bool:
    """Whether the training has ended that a validation is missing of."""
    return item.state is State.MISSING and finished_fit(results.run(item.cell.id), item.cell) is not None


def with_noise(curves: Mapping[str, Curves], trains: Sequence[str], norms: Sequence[str]) -> list[str]:
    """The training sets of which there is more than the validation set's curve."""
    more = [of for name, of in curves.items() if name in NOISE and not name.startswith("val/")]
    return [train for train in trains if any((train, norm) in of for norm, of in product(norms, more))]


class OverSeeds(NamedTuple):
    """Mean, lowest and highest value of an epoch, over the `seeds` curves that have it."""

    epoch: int
    mean: float
    lowest: float
    highest: float
    seeds: int


def over_seeds(curves: Sequence[Curve]) -> list[OverSeeds]:
    """The epochs that any of the curves has."""
    by_epoch: dict[int, list[float]] = {}
    for epoch, value in (point for curve in curves for point in curve):
        by_epoch.setdefault(epoch, []).append(value)
    ordered = sorted(by_epoch.items())
    return [OverSeeds(epoch, fmean(values), min(values), max(values), len(values)) for epoch, values in ordered]
