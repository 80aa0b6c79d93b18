"""The table of the matrix, and that of the three accuracies that a training says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from en_bench.accuracies import LABELS
from en_bench.matrix.plan import State
from en_bench.report.entries import MEANS, METRICS, Entry
from en_bench.report.shared_seeds import told_seeds
from en_bench.report.sheet import Field, Frame, Note, Sheet, computed, fields
from en_bench.report.tables import Key, Table

_HOLES = (State.MISSING, State.FAILED, State.STALE)
SUMMARY: Mapping[str, type] = {
    **dict.fromkeys(("mean", "sd", "half_width_95"), float),
    **dict.fromkeys(("mixed", "seeds", "diverged", "part", *(state.value for state in _HOLES)), int),
}
"""Columns of an entry. `mixed` is 1 where it and its rivals do not all rest on the same data. The last ones count
seeds: `seeds` those that the mean is of, `diverged` those that are no number, `part` those that validated on a part of
the set, then those without a result."""


def summary(entry: Entry) -> list[Any]:
    """The values of SUMMARY."""
    found = entry.summary
    numbers = [None, None, None] if found is None else map(computed, (found.mean, found.sd, found.half_width))
    counts = [int(entry.mixed), 0 if found is None else found.n, entry.diverged, entry.parts]
    return [*numbers, *counts, *(entry.holes[state] for state in _HOLES)]


def matrix_sheet(table: Table) -> Sheet:
    """Training sets and normalisers against validation sets."""
    side = "highest" if table.metric.higher_is_better else "lowest"
    adapted = [column.label for column in table.columns.values() if column.adapted]
    recalibrated = [
        Note(
            f"running moments of {table.spec.adapted[label]}, without labels; – where there are none",
            f"{label} (adapted)",
        )
        for label in adapted
    ]
    rows = [
        [*fields(train, norm), *(_field(table.entries[train, norm, name], table) for name in table.columns)]
        for train, norm in product(table.trains, table.norms)
    ]
    return Sheet(
        name="matrix",
        title="Matrix",
        caption=f"{table.headline}: {MEANS}",
        head=["trained on", "normaliser", *table.columns],
        stub=2,
        rows=rows,
        notes=[
            *recalibrated,
            *_shared(table),
            *_open(table),
            *(Note(value, key) for key, value in table.notes),
            *(Note(line, "FAILED", verbatim=True) for line in table.failures),
        ],
        best=f"{side} mean among the normalisers trained on the same set, over the seeds that all of them have, none "
        "of them diverged; several where it is equal; by the mean alone, intervals may overlap"
        if table.has_best
        else "",
    )


def _shared(table: Table) -> list[Note]:
    """Where the best is not that of the shown means."""
    told = [f"{train} → {name}: {told_seeds(seeds)}" for (train, name), seeds in table.best_over.items()]
    return [Note("; ".join(told), "best over the seeds that all rivals have")] if told else []


def _open(table: Table) -> list[Note]:
    """Where none is the best, as one that might be has no number."""
    told = [f"{train} → {name} ({', '.join(norms)})" for (train, name), norms in table.no_best.items()]
    return [Note("; ".join(told), "no best as long as a normaliser has no number")] if told else []


def _field(entry: Entry, table: Table) -> Field:
    return Field(entry.show(table.metric), entry.best)


def matrix_frame(table: Table) -> Frame:
    """One row per training set, normaliser and validation set, and one more where that was adapted to."""
    columns = {"train": str, "norm": str, "validate": str, "adapted": int, "metric": str, **SUMMARY, "best": int}
    rows = [
        [train, norm, column.label, int(column.adapted), table.spec.metric, *summary(entry), int(entry.best)]
        for (train, norm, column, entry) in _by_column(table, table.entries)
    ]
    return Frame("matrix", columns, rows)


def _by_column(table: Table, entries: Mapping[Key, Entry]) -> list[tuple[str, str, Any, Entry]]:
    return [(train, norm, table.columns[name], entry) for (train, norm, name), entry in entries.items()]


def accuracies_sheet(table: Table) -> Sheet | None:
    """The three accuracies of the trainings; None where none says them."""
    if not table.accuracies:
        return None
    metric = METRICS["top1"]
    return Sheet(
        name="accuracies",
        title="Three accuracies",
        caption=f"Three accuracies of each training: {metric.title}, on its own validation set: {MEANS}",
        head=["trained on", "normaliser", *LABELS.values()],
        stub=2,
        rows=[
            fields(train, norm, *(table.accuracies[train, norm, name].show(metric) for name in LABELS))
            for train, norm in product(table.trains, table.norms)
        ],
        notes=[
            Note(
                f"{LABELS['last']}: the headline; {LABELS['best']}: the highest on the validation set itself, which no "
                f"practitioner could choose; {LABELS['selected']}: the epoch with the highest accuracy on the part of "
                "the training split that was held out, by the labels that train; of equal epochs the earliest"
            )
        ],
    )


def accuracies_frame(table: Table) -> Frame | None:
    """One row per training set, normaliser and accuracy."""
    if not table.accuracies:
        return None
    rows = [
        [train, norm, LABELS[name], "top1", *summary(entry)] for (train, norm, name), entry in table.accuracies.items()
    ]
    return Frame("accuracies", {"train": str, "norm": str, "accuracy": str, "metric": str, **SUMMARY}, rows)
