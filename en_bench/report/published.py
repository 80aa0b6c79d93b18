"""Numbers that others reported, beside what was measured here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from en_bench.accuracies import LABELS
from en_bench.matrix.paired import SEEDS
from en_bench.matrix.reported import DIVERGES, Reported
from en_bench.report.entries import METRICS, MIXED, PART, Entry
from en_bench.report.scores import SUMMARY, summary
from en_bench.report.sheet import Frame, Note, Sheet, computed, fields
from en_bench.report.tables import Column, Table, entry_of, trained_entry

_ROUNDING = 1e-9  # of decimal fractions such as 0.763 + 0.003


@dataclass(frozen=True)
class Beside:
    """What was measured for a normaliser, a training and a validation set, and what was `reported`, if anything."""

    train: str
    norm: str
    target: str
    metric: str
    entry: Entry
    reported: Reported | None

    @property
    def selection(self) -> str:
        """Which epoch is compared, by its name in `en_bench.accuracies.LABELS`."""
        return "last" if self.reported is None else self.reported.selection

    @property
    def difference(self) -> float | None:
        """Measured mean minus reported value; None unless there are both, of the whole set and of the same data as
        their rivals, and no training diverged."""
        if self.reported is None or self.reported.value is None:
            return None
        if self.entry.summary is None or not self.entry.comparable or self.entry.diverged:
            return None
        return self.entry.summary.mean - self.reported.value

    @property
    def verdict(self) -> str:
        """`within` the tolerance, `above by 0.4` or `below by 0.4` of the reported value, `equal` to it or to a source
        that says `diverges`, which `differs` from any number; empty where nothing was reported.

        In brackets stands what weakens it: fewer than three seeds, or an interval that is wider than what is judged.
        """
        if self.reported is None:
            return ""
        if not self.entry.comparable or not self.entry.values:
            marks = [mark for mark in self.entry.holding() if mark in (PART, MIXED)]
            return f"not compared: {' '.join(marks) or 'nothing measured'}"
        diverged, trainings = self.entry.diverged, len(self.entry.values)
        if self.reported.value is None and diverged in (0, trainings):
            return self._weakened("equal" if diverged else "differs")
        if self.difference is None:
            return f"not compared: diverged {diverged}/{trainings}"
        return self._weakened(self._against(self.difference, self.reported.tolerance))

    def _against(self, difference: float, tolerance: float | None) -> str:
        if tolerance is not None and abs(difference) <= tolerance + _ROUNDING:
            return "within"
        metric = METRICS[self.metric]
        shown = metric.show(abs(difference))
        if tolerance is None and not float(shown):
            return "equal"
        digits = metric.digits
        while tolerance is not None and float(shown) <= tolerance * metric.scale + _ROUNDING:
            digits += 1  # 0.52 above a tolerance of 0.5 is not `above by 0.5`
            shown = f"{abs(difference) * metric.scale:.{digits}f}"
        return f"{'above' if difference > 0 else 'below'} by {shown}"

    def _weakened(self, verdict: str) -> str:
        trainings = len(self.entry.values)
        if trainings < SEEDS:
            return f"{verdict} ({trainings} seed{'s' * (trainings != 1)})"
        half_width = self.entry.summary.half_width if self.entry.summary is not None else None
        tolerance = self.reported.tolerance if self.reported is not None else None
        if half_width is None or tolerance is None or self.difference is None:
            return verdict
        return (
            f"{verdict} (interval wider)" if half_width > max(abs(self.difference), tolerance) + _ROUNDING else verdict
        )


def beside(table: Table) -> list[Beside]:
    """A row for every entry of the matrix, with several where several sources report it; and for every number that is
    reported in another metric. Empty where nothing is reported."""
    by_key: dict[tuple[str, str, str], list[Reported]] = {}
    for one in table.spec.reported:
        by_key.setdefault((one.train, one.norm, one.target), []).append(one)
    found = []
    for train, norm, target in product(table.trains, table.norms, table.targets) if by_key else ():
        published: Sequence[Reported | None] = by_key.get((train, norm, target), [None])
        for reported in published:
            metric = table.spec.metric if reported is None else reported.metric
            group = table.group(train, norm)
            if reported is None or reported.selection == "last":
                entry = entry_of(group, Column(target), metric)
                rival = table.entries[train, norm, target]
            else:
                entry = trained_entry(group, reported.selection)
                rival = table.accuracies.get((train, norm, reported.selection), entry)
            entry = replace(entry, mixed=rival.mixed)
            found.append(Beside(train, norm, target, metric, entry, reported))
    return found


def reported_sheet(table: Table) -> Sheet | None:
    """Measured and reported side by side; None where the specification names nothing that was reported."""
    found = beside(table)
    if not found:
        return None
    sources = {source: number for number, source in enumerate(dict.fromkeys(r.source for r in table.spec.reported), 1)}
    metrics = dict.fromkeys(one.metric for one in found)
    selections = dict.fromkeys(one.selection for one in found)
    others = list(selections) != ["last"]
    epoch = "" if others else f", {LABELS['last']}"
    diverging = [
        Note(
            "the source says that the training does not converge: equal where all of ours came to no number, differs "
            "where all came to one, which may be no better than chance",
            DIVERGES,
        )
    ] * any(one.reported is not None and one.reported.value is None for one in found)
    rows = []
    for one in found:
        metric, reported = METRICS[one.metric], one.reported
        value = "" if reported is None else f"{reported.printed} [{sources[reported.source]}]"
        tolerance = "" if reported is None else _tolerance(reported)
        stub = [one.train, one.norm, one.target, *([METRICS[one.metric].title] if len(metrics) > 1 else [])]
        stub += [LABELS[one.selection]] if others else []
        rows.append(fields(*stub, one.entry.show(metric), value, tolerance, one.verdict))
    stub_head = ["trained on", "normaliser", "validated on", *(["metric"] if len(metrics) > 1 else [])]
    stub_head += ["epoch"] if others else []
    return Sheet(
        "reported",
        "Reported beside measured",
        "Reported beside measured: "
        + ("; ".join(METRICS[name].title for name in metrics) + f"{epoch}; measured: mean ± 95 % interval (seeds)"),
        [
            *stub_head,
            *("measured", "reported", "tolerance", "verdict"),
        ],
        len(stub_head),
        rows,
        [
            Note(
                "measured mean against reported value; in brackets what weakens it: fewer than 3 seeds, or an interval "
                "wider than tolerance and difference; empty where no source was read; whole validation sets only",
                "verdict",
            ),
            *diverging,
            *(Note(source, f"[{number}]") for source, number in sources.items()),
        ],
    )


def _tolerance(reported: Reported) -> str:
    """With as many digits as it was given."""
    return "" if reported.tolerance is None else f"± {reported.tolerance * METRICS[reported.metric].scale:.10g}"


def reported_frame(table: Table) -> Frame | None:
    """One row per row of the table; NaN is reported where a source says that the training diverges."""
    rows = []
    for one in beside(table):
        measured_there = [one.train, one.norm, one.target, one.metric, *summary(one.entry)]
        rows.append([*measured_there, *_published(one.reported), computed(one.difference), one.verdict or None])
    stub = dict.fromkeys(("train", "norm", "validate", "metric"), str)
    published = {"selection": str, "reported": float, "tolerance": float, "source": str}
    compared = {"difference": float, "verdict": str}
    return Frame("reported", {**stub, **SUMMARY, **published, **compared}, rows) if rows else None


def _published(reported: Reported | None) -> list[Any]:
    if reported is None:
        return [None] * 4
    value = math.nan if reported.value is None else reported.value
    return [reported.selection, value, reported.tolerance, reported.source]
