"""`en-bench matrix report` and `en-bench report`: tables and page from the records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from en_bench.matrix.collection import collection_paused
from en_bench.matrix.opened import OpenedMatrix, open_matrix
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.process import Execute


@collection_paused()
def report_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Prints the table and writes the files of all tables. Returns the exit code."""
    matrix = open_matrix(args)
    print_table(matrix, matrix.planned(), args.format)
    return 0


@collection_paused()
def page_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Writes the page. Returns the exit code."""
    matrix = open_matrix(args)
    print(write_page(matrix, matrix.planned()))
    return 0


def print_table(matrix: OpenedMatrix, planned: list[PlannedCell], form: str) -> None:
    """Writes the files of all tables, and prints one as text, markdown or csv."""
    from en_bench.report.render import matrix_csv, to_markdown, to_text, write_tables

    table = write_tables(matrix.results, matrix.spec, planned)
    render = {"text": to_text, "markdown": to_markdown, "csv": matrix_csv}[form]
    sys.stdout.write(render(table))


def write_page(matrix: OpenedMatrix, planned: list[PlannedCell]) -> Path:
    """Writes the page of a matrix and returns its path."""
    from en_bench.report.page import write_report

    return write_report(matrix.results, matrix.spec, planned)
