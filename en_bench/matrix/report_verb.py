"""`en-bench matrix report` and `en-bench report`: tables and page from the records."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from en_bench.matrix.collection import collection_paused
from en_bench.matrix.opened import OpenedMatrix, open_matrix, require_results
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.process import Execute


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """How tables are printed."""
    formats = ("text", "markdown", "latex", "csv", "parquet")
    parser.add_argument("--format", choices=formats, default="text", help="how to print the tables")
    parser.add_argument(
        "--table", action="append", metavar="NAME", help="print this table alone; can be repeated (csv: default matrix)"
    )


@collection_paused()
def report_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Prints the tables and writes the files of all of them. Returns the exit code."""
    matrix = open_matrix(args)
    require_results(matrix.results, args, by_default=True)
    print_table(matrix, matrix.as_recorded(), args.format, args.table)
    return 0


@collection_paused()
def page_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Writes the page. Returns the exit code."""
    matrix = open_matrix(args)
    require_results(matrix.results, args, by_default=True)
    print(write_page(matrix, matrix.as_recorded()))
    return 0


def print_table(
    matrix: OpenedMatrix, planned: list[PlannedCell], form: str, names: Sequence[str] | None = None
) -> None:
    """Writes the files of all tables, and prints those called `names` (default: all, in csv the matrix)."""
    from en_bench.report.document import document
    from en_bench.report.files import printed, write_tables
    from en_bench.report.tables import build_table

    doc = document(build_table(matrix.spec, planned))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    told = printed(matrix.results, doc, form, names, width)
    write_tables(matrix.results, doc, parquet=form == "parquet")
    sys.stdout.write(told)


def write_page(matrix: OpenedMatrix, planned: list[PlannedCell]) -> Path:
    """Writes the page of a matrix and returns its path."""
    from en_bench.report.page import write_report

    return write_report(matrix.results, matrix.spec, planned)
