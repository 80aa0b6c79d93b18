"""A table as text, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from en_bench.files import write_text
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.records import Results
from en_bench.matrix.spec import METRICS, Spec
from en_bench.report.tables import Table, build_table

_COUNTED = ("set", "labels", "n", "unreadable", "whole_set", "digest")  # of a validation
_COST = ("seconds", "images_per_second", "parameters", "peak_memory_bytes")


def caption(table: Table) -> str:
    return f"{table.metric.title}: mean ± 95 % interval by Student's t (number of seeds; no interval below 3)"


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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    head = [table.title, caption(table), ""]
    best = [f"* {best_note(table)}"] if table.has_best else []
    notes = [f"{key}: {value}" for key, value in table.notes]
    failures = [f"FAILED {line}" for line in table.failures]
    return "\n".join([*head, *lines, "", *best, *notes, *failures]) + "\n"


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
    return "\n".join(lines) + "\n"


def matrix_csv(table: Table) -> str:
    """One row per (training set, normaliser, validation set); fractions and nats, in full precision.

    The last columns count seeds: `part` those of `seeds` that validated on a part of the set, then those without a
    result.
    """
    head = ["train", "norm", "validate", "metric", "mean", "sd", "half_width_95", "seeds"]
    rows: list[list[Any]] = [[*head, "part", *(state.value for state in _HOLES), "best"]]
    for (train, norm, target), entry in table.entries.items():
        summary = entry.summary
        numbers = ["", "", "", 0] if summary is None else [summary.mean, summary.sd, summary.half_width, summary.n]
        holes = [entry.holes[state] for state in _HOLES]
        rows.append([train, norm, target, table.metric_name, *numbers, entry.parts, *holes, int(entry.best)])
    return _csv(rows)


_HOLES = (State.MISSING, State.FAILED, State.STALE)


def cells_csv(spec: Spec, planned: Sequence[PlannedCell]) -> str:
    """One row per cell and validation set, with every metric, the costs of the training and the origin of the numbers.

    The result of a stale or failed validation is left empty; `state` says why.
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
    rows: list[list[Any]] = [[*head, *metrics, *_COST, "epochs", "device", "commit", "dirty", "reason"]]
    for item in planned:
        fit = item.record.fit if item.record is not None else {}
        reason = item.record.reason if item.record is not None else None
        commit = fit.get("commit") or {}
        for label in spec.validate:
            result = item.result(label) or {"metrics": {}}
            rows.append(
                [item.cell.id, item.state.value, item.cell.train, item.cell.norm, item.cell.seed, label]
                + [result.get(key) for key in _COUNTED]
                + [_number(result["metrics"], name) for name in metrics]
                + [fit.get("cost", {}).get(name) for name in _COST]
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
    """Write `matrix.txt`, `matrix.md`, `matrix.csv` and `cells.csv` into the matrix's folder of tables."""
    table = build_table(spec, planned)
    write_text(results.tables / "matrix.txt", to_text(table))
    write_text(results.tables / "matrix.md", to_markdown(table))
    write_text(results.tables / "matrix.csv", matrix_csv(table))
    write_text(results.tables / "cells.csv", cells_csv(spec, planned))
    return table
