"""A table as text, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from en_bench.accuracies import LABELS
from en_bench.files import write_text
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.records import Results
from en_bench.matrix.spec import Spec
from en_bench.report.tables import METRICS, Entry, Table, build_table, label_rate, trained_labels

_COUNTED = ("set", "labels", "n", "unreadable", "whole_set", "digest")  # of a validation
_COST = ("seconds", "images_per_second", "parameters", "peak_memory_bytes")
_OWN = {  # columns of what a training says of its own accuracies
    "last_epoch_top1": ("last", "top1"),
    "oracle_top1": ("best", "top1"),
    "oracle_epoch": ("best", "epoch"),
    "selected_top1": ("selected", "top1"),
    "selected_epoch": ("selected", "epoch"),
    "selected_held_out_top1": ("selected", "held_out"),
}
_LABELS = ("train_labels", "labels_changed", "labels_wrong")  # that train, and which share of them
_MEANS = "mean ± 95 % interval by Student's t (number of seeds; no interval below 3)"


def caption(table: Table) -> str:
    return f"{table.headline}: {_MEANS}"


def accuracies_caption() -> str:
    return f"Three accuracies of each training: {METRICS['top1'].title}, on its own validation set: {_MEANS}"


def accuracies_note() -> str:
    return (
        f"{LABELS['last']}: the headline; {LABELS['best']}: the highest on the validation set itself, which no "
        f"practitioner could choose; {LABELS['selected']}: the epoch with the highest accuracy on the part of the "
        "training split that was held out, by the labels that train; of equal epochs the earliest"
    )


def best_note(table: Table) -> str:
    side = "highest" if table.metric.higher_is_better else "lowest"
    return f"{side} mean among the normalisers trained on the same set; by the mean alone, intervals may overlap"


def to_text(table: Table) -> str:
    """For a terminal: columns aligned, `*` behind the best."""
    rows = [["trained on", "normaliser", *table.targets]]
    for train in table.trains:
        for norm in table.norms:
            shown = [
                entry.show(table.metric) + (" *" if entry.best else "")
                for entry in (table.entries[train, norm, target] for target in table.targets)
            ]
            rows.append([train if norm == table.norms[0] else "", norm, *shown])
    lines = _aligned(rows)
    head = [table.title, caption(table), ""]
    best = [f"* {best_note(table)}"] if table.has_best else []
    notes = [f"{key}: {value}" for key, value in table.notes]
    failures = [f"FAILED {line}" for line in table.failures]
    return "\n".join([*head, *lines, "", *best, *notes, *failures, *_accuracies_text(table)]) + "\n"


def _accuracies_text(table: Table) -> list[str]:
    rows = [["trained on", "normaliser", *LABELS.values()]]
    rows += [[train if norm == table.norms[0] else "", norm, *shown] for train, norm, shown in accuracies(table)]
    return ["", accuracies_caption(), "", *_aligned(rows), "", accuracies_note()] if table.accuracies else []


def accuracies(table: Table) -> Iterator[tuple[str, str, list[str]]]:
    """Training set, normaliser and the three accuracies, as shown."""
    if table.accuracies:
        for train, norm in product(table.trains, table.norms):
            entries = [table.accuracies[train, norm, name] for name in LABELS]
            yield train, norm, [entry.show(METRICS["top1"]) for entry in entries]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def to_markdown(table: Table) -> str:
    """For a README: the best in bold, the notes as a list."""
    lines = [f"### {table.title}", "", f"{caption(table)}.", ""]
    lines.append("| " + " | ".join(["trained on", "normaliser", *table.targets]) + " |")
    lines.append("|" + " --- |" * 2 + " ---: |" * len(table.targets))
    for train in table.trains:
        for norm in table.norms:
            entries = [table.entries[train, norm, target] for target in table.targets]
            shown = [f"**{e.show(table.metric)}**" if e.best else e.show(table.metric) for e in entries]
            lines.append("| " + " | ".join([train, norm, *shown]) + " |")
    lines.append("")
    if table.has_best:
        lines += [f"Bold: {best_note(table)}.", ""]
    lines += [f"- {key}: {value}" for key, value in table.notes]
    # In a code span, so that nothing in an error's text becomes markup.
    lines += [f"- FAILED `{line.replace('`', chr(39))}`" for line in table.failures]
    if table.accuracies:
        lines += ["", f"{accuracies_caption()}.", ""]
        lines.append("| " + " | ".join(["trained on", "normaliser", *LABELS.values()]) + " |")
        lines.append("|" + " --- |" * 2 + " ---: |" * len(LABELS))
        lines += ["| " + " | ".join([train, norm, *shown]) + " |" for train, norm, shown in accuracies(table)]
        lines += ["", f"{accuracies_note()}."]
    return "\n".join(lines) + "\n"


def matrix_csv(table: Table) -> str:
    """One row per (training set, normaliser, validation set); fractions and nats, in full precision.

    The last columns count seeds: `part` those of `seeds` that validated on a part of the set, then those without a
    result.
    """
    rows: list[list[Any]] = [["train", "norm", "validate", "metric", *_SUMMARY, "best"]]
    for (train, norm, target), entry in table.entries.items():
        rows.append([train, norm, target, table.metric_name, *_summary(entry), int(entry.best)])
    return _csv(rows)


def accuracies_csv(table: Table) -> str:
    """One row per (training set, normaliser, accuracy), like `matrix_csv`."""
    rows: list[list[Any]] = [["train", "norm", "accuracy", "metric", *_SUMMARY]]
    for (train, norm, name), entry in table.accuracies.items():
        rows.append([train, norm, LABELS[name], "top1", *_summary(entry)])
    return _csv(rows)


def _summary(entry: Entry) -> list[Any]:
    summary = entry.summary
    numbers = ["", "", "", 0] if summary is None else [summary.mean, summary.sd, summary.half_width, summary.n]
    return [*numbers, entry.parts, *(entry.holes[state] for state in _HOLES)]


_HOLES = (State.MISSING, State.FAILED, State.STALE)
_SUMMARY = ["mean", "sd", "half_width_95", "seeds", "part", *(state.value for state in _HOLES)]


def cells_csv(spec: Spec, planned: Sequence[PlannedCell]) -> str:
    """One row per cell and validation set, with every metric, the costs of the training and the origin of the numbers.

    The result of a stale or failed validation is left empty, as are the accuracies that a training says of itself where
    nothing of it holds; `state` says why.
    """
    found = {
        name
        for item in planned
        if item.record
        for result in item.record.validate.values()
        for name in result["metrics"]
    }
    metrics = [*METRICS, *sorted(found - set(METRICS))]
    head = ["id", "state", "train", "norm", "seed", "validate", *_COUNTED]
    rows: list[list[Any]] = [
        [*head, *metrics, *_COST, *_OWN, *_LABELS, "epochs", "device", "commit", "dirty", "reason"]
    ]
    for item in planned:
        fit = item.record.fit if item.record is not None else {}
        reason = item.record.reason if item.record is not None else None
        commit = fit.get("commit") or {}
        own = (fit.get("accuracies") or {}) if item.fresh else {}
        for label in spec.validate:
            result = item.result(label) or {"metrics": {}}
            rows.append(
                [item.cell.id, item.state.value, item.cell.train, item.cell.norm, item.cell.seed, label]
                + [result.get(key) for key in _COUNTED]
                + [_number(result["metrics"], name) for name in metrics]
                + [fit.get("cost", {}).get(name) for name in _COST]
                + [(own.get(name) or {}).get(key) for name, key in _OWN.values()]
                + [trained_labels(fit), label_rate(fit, "changed"), label_rate(fit, "wrong")]
                + [fit.get("epochs"), fit.get("device"), commit.get("sha"), commit.get("dirty"), reason]
            )
    return _csv(rows)


def _number(metrics: Mapping[str, float | None], name: str) -> float | None:
    value = metrics.get(name)
    return math.nan if name in metrics and value is None else value


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def write_tables(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> Table:
    """Write `matrix.txt`, `matrix.md`, `matrix.csv` and `cells.csv` into the matrix's folder of tables.

    And `accuracies.csv`, where trainings say their three accuracies.
    """
    table = build_table(spec, planned)
    write_text(results.tables / "matrix.txt", to_text(table))
    write_text(results.tables / "matrix.md", to_markdown(table))
    write_text(results.tables / "matrix.csv", matrix_csv(table))
    write_text(results.tables / "cells.csv", cells_csv(spec, planned))
    own = results.tables / "accuracies.csv"
    if table.accuracies:
        write_text(own, accuracies_csv(table))
    else:
        own.unlink(missing_ok=True)
    return table
