"""The numbers of a matrix: cells summarised over seeds, holes with their cause, and where all of it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from en_bench.accuracies import LABELS
from en_bench.matrix.paired import ROUNDING, SEEDS
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.records import Json, covers_set
from en_bench.matrix.spec import Spec
from en_bench.report import origin
from en_bench.report.entries import METRICS, Entry, Measured, Metric, collect
from en_bench.report.same_data import basis, mark_mixed, told_mixed
from en_bench.report.shared_seeds import leaves_out, shared_means, shared_seeds

Groups = Mapping[tuple[str, str], Sequence[PlannedCell]]
"""The cells of each training set and normaliser: they differ in their seed."""

Key = tuple[str, str, str]
"""Training set, normaliser, column."""


@dataclass(frozen=True)
class Column:
    """What the networks were measured on: a validation set, or the same after their running moments `adapted` to it."""

    label: str
    adapted: bool = False

    @property
    def name(self) -> str:
        return f"{self.label} (adapted)" if self.adapted else self.label

    def applies(self, item: PlannedCell) -> bool:
        """Whether there can be a result: not after adapting a network that has no running moments."""
        return not (self.adapted and item.has_no_moments(self.label))

    def result(self, item: PlannedCell) -> Json | None:
        """What the cell has there, if it still holds."""
        return item.adapted(self.label) if self.adapted else item.result(self.label)


@dataclass(frozen=True)
class Table:
    """A matrix in numbers. `notes` and `failures` are lines to stand below it.

    Attributes:
        spec: the matrix's specification.
        groups: its cells.
        metric: how the specification's metric is shown.
        targets: labels of the validation sets.
        columns: by name, `targets` and what was measured on them after adapting.
        own: the label of each training set's own validation set, where it is among `targets`.
        counted: of each training set the columns that are compared: of several that are of one set only one.
        entries: by training set, normaliser and column's name.
        best_over: by training set and column's name the seeds that the best is of, where they are not all that are
            shown.
        no_best: by training set and column's name the normalisers without a number, for which no other is the best.
        accuracies: by training set, normaliser and name of `en_bench.accuracies.LABELS`: top-1 on the training's own
            validation set, in three ways; empty where no training says.
        data_line: the class map, and n and variant of the validation sets, in short.
    """

    spec: Spec
    groups: Groups
    metric: Metric
    trains: tuple[str, ...]
    norms: tuple[str, ...]
    targets: tuple[str, ...]
    columns: Mapping[str, Column]
    own: Mapping[str, str]
    counted: Mapping[str, Sequence[str]]
    entries: Mapping[Key, Entry]
    best_over: Mapping[tuple[str, str], Sequence[int]]
    no_best: Mapping[tuple[str, str], Sequence[str]]
    notes: tuple[tuple[str, str], ...]
    failures: tuple[str, ...]
    accuracies: Mapping[Key, Entry]
    data_line: str

    @property
    def title(self) -> str:
        return self.spec.title

    @property
    def headline(self) -> str:
        """What the entries are."""
        return f"{self.metric.title}, last epoch"

    @property
    def has_best(self) -> bool:
        return any(entry.best for entry in self.entries.values())

    def group(self, train: str, norm: str) -> Sequence[PlannedCell]:
        return self.groups.get((train, norm), ())


def build_table(spec: Spec, planned: Sequence[PlannedCell]) -> Table:
    """The table of a planned matrix."""
    metric = METRICS[spec.metric]
    groups: dict[tuple[str, str], list[PlannedCell]] = {}
    for item in planned:
        groups.setdefault((item.cell.train, item.cell.norm), []).append(item)
    columns = _columns(spec)
    entries: dict[Key, Entry] = {}
    best_over: dict[tuple[str, str], Sequence[int]] = {}
    no_best: dict[tuple[str, str], Sequence[str]] = {}
    for train, column in product(spec.train, columns.values()):
        found = mark_mixed({norm: entry_of(groups.get((train, norm), ()), column, spec.metric) for norm in spec.norms})
        rivals = {norm: entry for norm, entry in found.items() if entry.values}
        # One that is neither here nor missing has nothing there to be measured.
        without = [norm for norm, entry in found.items() if not entry.values and entry.holes.total()]
        best = frozenset[str]() if without else _best(rivals, metric)
        if rivals and without:
            no_best[train, column.name] = without
        if best and leaves_out(rivals.values()):
            best_over[train, column.name] = shared_seeds(rivals.values())
        for norm, entry in found.items():
            entries[train, norm, column.name] = replace(entry, best=True) if norm in best else entry
    accuracies = _accuracies(spec, groups)
    validated = origin.validated_by(spec, planned)
    return Table(
        spec=spec,
        groups=groups,
        metric=metric,
        trains=tuple(spec.train),
        norms=tuple(spec.norms),
        targets=tuple(spec.validate),
        columns=columns,
        own=spec.own_targets(),
        counted=counted_columns(spec, columns),
        entries=entries,
        best_over=best_over,
        no_best=no_best,
        notes=tuple(origin.notes(spec, planned, validated, _mixed(spec, columns, entries, accuracies))),
        failures=tuple(
            f"{item.cell}: {item.record.reason} (cell {item.cell.id})"
            for item in planned
            if item.state is State.FAILED and item.record is not None
        ),
        accuracies=accuracies,
        data_line=origin.data_line(validated),
    )


def entry_of(group: Sequence[PlannedCell], column: Column, metric: str) -> Entry:
    """What a group of cells comes to in a column."""
    entry = collect(filter(column.applies, group), partial(measured, column, metric))
    return replace(entry, may_not_apply=column.adapted)


def measured(column: Column, metric: str, item: PlannedCell) -> Measured | None:
    """The value of a metric in a cell."""
    result = column.result(item)
    if item.record is None or result is None or metric not in result["metrics"]:
        return None
    return Measured(result["metrics"][metric], covers_set(result), basis(item.record.training_data, result))


def _columns(spec: Spec) -> Mapping[str, Column]:
    found = [Column(label, adapted) for label in spec.validate for adapted in (False, True)]
    return {column.name: column for column in found if not column.adapted or column.label in spec.adapted}


def counted_columns(spec: Spec, columns: Mapping[str, Column]) -> Mapping[str, Sequence[str]]:
    """Of each training set the columns without those that are of the same set as another, under another label (`own`,
    or a second label): counted twice, it would weigh double. The label of the training's own set goes first."""
    counted: dict[str, Sequence[str]] = {}
    own = spec.own_targets()
    for train in spec.train:
        first: dict[object, str] = {}
        for name, column in sorted(columns.items(), key=lambda item: item[1].label != own.get(train)):
            selected = frozenset(spec.resolved(train, column.label).items())
            first.setdefault((selected, spec.adapted[column.label] if column.adapted else None), name)
        counted[train] = [name for name in columns if name in first.values()]
    return counted


def _mixed(
    spec: Spec, columns: Iterable[str], entries: Mapping[Key, Entry], accuracies: Mapping[Key, Entry]
) -> Sequence[str]:
    """Which normalisers and seeds rest on which data, where these differ among rivals."""
    places = [
        (train, f"{train} → {name}", {norm: entries[train, norm, name] for norm in spec.norms})
        for train, name in product(spec.train, columns)
    ]
    places += [
        (train, f"{train}, during training", {norm: accuracies[train, norm, name] for norm in spec.norms})
        for train, name in product(spec.train, LABELS if accuracies else ())
    ]
    return list(told_mixed(places))


def _accuracies(spec: Spec, groups: Groups) -> Mapping[Key, Entry]:
    entries: dict[Key, Entry] = {}
    for train, name in product(spec.train, LABELS):
        found = mark_mixed({norm: trained_entry(groups.get((train, norm), ()), name) for norm in spec.norms})
        entries |= {(train, norm, name): entry for norm, entry in found.items()}
    return entries if any(entry.values for entry in entries.values()) else {}


def trained_entry(group: Sequence[PlannedCell], name: str) -> Entry:
    """What the accuracies called `name` that trainings say of themselves come to."""
    chosen = (item for item in group if not _selects_none(item)) if name == "selected" else group
    return collect(chosen, partial(_trained, name))


def _selects_none(item: PlannedCell) -> bool:
    """Whether a training is whole, and holds nothing out to select an epoch on."""
    fit = item.record.fit if item.record is not None and item.fresh else {}
    return bool(fit.get("accuracies")) and not fit["accuracies"].get("selected") and not fit.get("held_out")


def _trained(name: str, item: PlannedCell) -> Measured | None:
    """Of the accuracies that a training says of itself, like its costs, if it has a number in the matrix."""
    if item.record is None or not item.fresh:
        return None
    accuracies = item.record.fit.get("accuracies") or {}
    found = accuracies.get(name)
    if not found and (accuracies.get("last") or {"top1": 0.0})["top1"] is None:
        found = accuracies["last"]  # no epoch of a training that diverged is the best, or can be selected
    if not found:
        return None
    return Measured(found["top1"], covers_set(found), basis(item.record.training_data, item.record.fit["val"]))


def _best(rivals: Mapping[str, Entry], metric: Metric) -> frozenset[str]:
    """The normalisers with the best mean over the seeds that all rivals have, several where that is equal; none unless
    there are rivals and at least three such seeds.

    One with a training that diverged is never the best. A mean over a part of the validation set, or over other data,
    is no rival, and leaves open which one is best.
    """
    entries = rivals.values()
    if len(rivals) < 2 or not all(e.comparable for e in entries) or len(shared_seeds(entries)) < SEEDS:
        return frozenset()
    means = {norm: mean for norm, mean in shared_means(rivals).items() if mean == mean}
    best = (max if metric.higher_is_better else min)(means.values(), default=math.nan)
    return frozenset(norm for norm, mean in means.items() if math.isclose(mean, best, rel_tol=ROUNDING))
