"""`en-bench matrix run`: what is not done yet, then the table and the page."""

from __future__ import annotations

import argparse
import shlex

from en_bench.matrix.cell_run import CellRun
from en_bench.matrix.commands import cell_commands
from en_bench.matrix.lease import Leases
from en_bench.matrix.opened import OpenedMatrix, open_matrix
from en_bench.matrix.process import Execute
from en_bench.matrix.report_verb import print_table, write_page
from en_bench.matrix.run import INTERRUPTED, Runner, select


def run_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Returns 0, 1 if a cell failed, 130 if interrupted."""
    matrix = open_matrix(args)
    if args.dry_run:
        _print_commands(matrix, args.only)
        return 0
    matrix.planned()  # warns of files that are no records before anything runs
    cells = CellRun(matrix.spec, execute, matrix.results, matrix.digests, matrix.data_root, args.isolate)
    code = Runner(cells, Leases(matrix.results.leases)).run(args.only)
    if code != INTERRUPTED:
        planned = matrix.planned()
        print()
        print_table(matrix, planned, "text", ["matrix"])
        print(f"page: {write_page(matrix, planned)}")
    return code


def _print_commands(matrix: OpenedMatrix, only: str) -> None:
    for item in select(matrix.planned(), only, matrix.spec):
        print(f"# {item.cell}: {item.state}")
        for argv in cell_commands(matrix.spec, item.cell, matrix.results.run(item.cell.id), matrix.data_root):
            print(shlex.join(["en-bench", *argv]))
