"""Numbers that others reported, beside what was measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from en_bench.accuracies import LABELS
from en_bench.matrix.reported import Reported
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
        """Measured mean minus reported value; None unless there are both, of the whole set and of the same data, and no
        training diverged."""
        if self.reported is None or self.entry.summary is None or not self.entry.comparable or self.entry.diverged:
            return None
        return self.entry.summary.mean - self.reported.value

    @property
    def verdict(self) -> str:
        """`within` the tolerance, `above by 0.4` or `below by 0.4` of the reported value; empty where nothing is to
        judge."""
        if self.reported is None:
            return ""
        if self.difference is None:
            marks = [*([PART] if self.entry.partial else []), *([MIXED] if self.entry.mixed else [])]
            why = " ".join(marks) or ("diverged" if self.entry.diverged else "nothing measured")
            return f"not compared: {why}"
        tolerance = self.reported.tolerance
        if tolerance is not None and abs(self.difference) <= tolerance + _ROUNDING:
            return "within"
        metric = METRICS[self.metric]
        shown = metric.show(abs(self.difference))
        if tolerance is None and not float(shown):
            return "equal"
        digits = metric.digits
        while tolerance is not None and float(shown) <= tolerance * metric.scale + _ROUNDING:
            digits += 1  # 0.52 above a tolerance of 0.5 is not `above by 0.5`
            shown = f"{abs(self.difference) * metric.scale:.{digits}f}"
        return f"{'above' if self.difference > 0 else 'below'} by {shown}"


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
    rows = []
    for one in found:
        metric, reported = METRICS[one.metric], one.reported
        value = "" if reported is None else f"{_printed(reported.value, one.metric)} [{sources[reported.source]}]"
        tolerance = (
            "" if reported is None or reported.tolerance is None else f"± {_printed(reported.tolerance, one.metric)}"
        )
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
                "measured mean against reported value; empty where no source was read; whole validation sets only",
                "verdict",
            ),
            *(Note(source, f"[{number}]") for source, number in sources.items()),
        ],
    )


def _printed(value: float, metric: str) -> str:
    """As many digits as were published: 76.4, 67.89, 0.3."""
    return f"{value * METRICS[metric].scale:.10g}"


def reported_frame(table: Table) -> Frame | None:
    """One row per row of the table."""
    rows = [
        [one.train, one.norm, one.target, one.metric, *summary(one.entry)]
        + ([None] * 4 if (r := one.reported) is None else [r.selection, r.value, r.tolerance, r.source])
        + [computed(one.difference), one.verdict or None]
        for one in beside(table)
    ]
    columns = ["train", "norm", "validate", "metric", *SUMMARY]
    published = ["selection", "reported", "tolerance", "source", "difference", "verdict"]
    return Frame("reported", [*columns, *published], rows) if rows else None
