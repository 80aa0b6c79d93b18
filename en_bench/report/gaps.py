"""The transfer gap: what a training scores on its own validation set, minus what it scores on another."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

from en_bench.matrix.plan import PlannedCell
from en_bench.report.entries import Entry, Measured, collect
from en_bench.report.same_data import mark_mixed
from en_bench.report.scores import SUMMARY, summary
from en_bench.report.sheet import Frame, Note, Sheet, fields
from en_bench.report.tables import Column, Key, Table, measured


def gaps(table: Table) -> dict[Key, Entry]:
    """By training set, normaliser and column: the differences of each training, over seeds. None for its own set, nor
    twice for a set that has two labels."""
    own = {train: Column(label) for train, label in table.own.items()}
    found: dict[Key, Entry] = {}
    for train, (name, column) in product(own, table.columns.items()):
        if column != own[train] and name in table.counted[train]:
            find = partial(_gap, own[train], column, table.spec.metric)
            groups = {norm: filter(column.applies, table.group(train, norm)) for norm in table.norms}
            rivals = mark_mixed({norm: collect(group, find) for norm, group in groups.items()})
            for norm, entry in rivals.items():
                found[train, norm, name] = replace(entry, may_not_apply=column.adapted)
    return found


def _gap(own: Column, other: Column, metric: str, item: PlannedCell) -> Measured | None:
    here, there = (measured(column, metric, item) for column in (own, other))
    if here is None or there is None:
        return None
    difference = None if here.value is None or there.value is None else here.value - there.value
    return Measured(difference, here.whole and there.whole, (*here.basis, *there.basis))


def gaps_sheet(table: Table) -> Sheet | None:
    """Training sets and normalisers against the other validation sets; None where there is no transfer."""
    found = gaps(table)
    names = [
        name
        for name in table.columns
        if any(table.own.get(train) != name and name in table.counted[train] for train in table.trains)
    ]
    if not names:
        return None
    rows = [
        fields(train, norm, *(_show(found.get((train, norm, name)), table) for name in names))
        for train, norm in product(table.trains, table.norms)
    ]
    left_out = [train for train in table.trains if train not in table.own]
    notes = [Note("differences within each training; – on its own set")]
    if any(len(table.counted[train]) < len(table.columns) for train in table.trains):
        notes.append(Note("– too where a set stands under another label already"))
    if not table.metric.higher_is_better:
        notes.append(Note("lower is better: a negative gap is a worse score on the other set, a positive one a better"))
    if left_out:
        notes.append(Note(f"{', '.join(left_out)}: not validated on the own set", "no gap"))
    return Sheet(
        "gaps",
        "Transfer gap",
        f"Transfer gap: {table.headline}, own validation set minus the other's: mean ± 95 % interval (seeds)",
        ["trained on", "normaliser", *names],
        2,
        rows,
        notes,
    )


def _show(entry: Entry | None, table: Table) -> str:
    return "–" if entry is None else entry.show(table.metric, difference=True)


def gaps_frame(table: Table) -> Frame | None:
    """One row per training set, normaliser and column."""
    rows = [
        [train, norm, table.columns[name].label, int(table.columns[name].adapted), table.spec.metric, *summary(entry)]
        for (train, norm, name), entry in gaps(table).items()
    ]
    columns = {"train": str, "norm": str, "validate": str, "adapted": int, "metric": str, **SUMMARY}
    return Frame("gaps", columns, rows) if rows else None
