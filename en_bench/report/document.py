"""All tables of a matrix: the sheets that people read, the frames that programs read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from en_bench.report.cells import cells_frame
from en_bench.report.comparisons import against_baseline, all_pairs
from en_bench.report.costs import costs_frame, costs_sheet
from en_bench.report.differences import baseline_sheet, differences_frame, pairs_sheet, wins_sheet
from en_bench.report.entries import MIXED
from en_bench.report.gaps import gaps_frame, gaps_sheet
from en_bench.report.published import reported_frame, reported_sheet
from en_bench.report.rankings import ranks_frame, ranks_sheet
from en_bench.report.scores import accuracies_frame, accuracies_sheet, matrix_frame, matrix_sheet
from en_bench.report.sheet import Frame, Note, Sheet
from en_bench.report.tables import Table

SHEETS = ("matrix", "accuracies", "reported", "differences", "pairs", "wins", "ranks", "gaps", "costs")
FRAMES = ("matrix", "accuracies", "reported", "differences", "ranks", "gaps", "costs", "cells")


@dataclass(frozen=True)
class Document:
    """`sheets` and `frames` in the order of SHEETS and FRAMES, without those that a matrix has nothing for."""

    title: str
    name: str
    sheets: tuple[Sheet, ...]
    frames: tuple[Frame, ...]


def document(table: Table) -> Document:
    """The tables of a matrix, each with class map, n and data variant under it."""
    baseline, pairs = against_baseline(table), all_pairs(table)
    notes = dict(table.notes)
    mixed = [Note(notes[MIXED], MIXED)] if MIXED in notes else []
    shared = [*mixed, Note(table.data_line, "data"), Note(notes["cells"], "cells")]
    tried = Note(notes["recipes tried"], "recipes tried")
    matrix, *others = [
        matrix_sheet(table),
        accuracies_sheet(table),
        reported_sheet(table),
        baseline_sheet(table, baseline),
        pairs_sheet(table, pairs),
        wins_sheet(table, pairs),
        ranks_sheet(table),
        gaps_sheet(table),
        costs_sheet(table),
    ]
    assert matrix is not None
    frames = [
        matrix_frame(table),
        accuracies_frame(table),
        reported_frame(table),
        differences_frame(table, baseline, pairs) if baseline.found else None,
        ranks_frame(table),
        gaps_frame(table),
        costs_frame(table),
        cells_frame(table),
    ]
    with_data = [replace(sheet, notes=[*sheet.notes, tried, *shared]) for sheet in others if sheet is not None]
    return Document(table.title, table.spec.name, (matrix, *with_data), tuple(f for f in frames if f is not None))
