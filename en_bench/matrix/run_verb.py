"""`en-bench matrix run`: what is not done yet, then the table and the page."""

from __future__ import annotations

import argparse
import shlex

from en_bench.errors import InputError
from en_bench.matrix.cell_run import CellRun
from en_bench.matrix.commands import cell_commands
from en_bench.matrix.opened import OpenedMatrix, open_matrix
from en_bench.matrix.process import Execute
from en_bench.matrix.report_verb import print_table, write_page
from en_bench.matrix.run import INTERRUPTED, Runner, select
from en_bench.matrix.slurm_job import run_job
from en_bench.matrix.slurm_launcher import launch, print_scripts, watch
from en_bench.matrix.slurm_leases import leases_of
from en_bench.matrix.slurm_options import parse_flags


def run_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Returns 0, 1 if a cell failed, 130 if interrupted."""
    matrix = open_matrix(args)
    cells = CellRun(matrix.spec, execute, matrix.results, matrix.digests, matrix.data_root, args.isolate)
    if args.slurm_job is not None:
        return run_job(cells, args.slurm_job)
    flags = parse_flags(args.slurm)
    if flags and args.launcher != "slurm":
        raise InputError("--slurm says what jobs need: add --launcher slurm")
    if args.dry_run:
        if args.launcher == "slurm":
            print_scripts(matrix, args.only, flags)
        _print_commands(matrix, args.only)
        return 0
    runner = Runner(cells, leases_of(matrix.results))
    if args.launcher == "slurm":
        submitted = launch(matrix, args.only, flags)
        if not args.wait:
            return 0
        code = watch(matrix, runner, submitted)
    else:
        matrix.planned()  # warns of files that are no records before anything runs
        code = runner.run(args.only)
    if code != INTERRUPTED:
        planned = matrix.planned()
        print()
        print_table(matrix, planned, "text")
        print(f"page: {write_page(matrix, planned)}")
    return code


def _print_commands(matrix: OpenedMatrix, only: str) -> None:
    for item in select(matrix.planned(), only, matrix.spec):
        print(f"# {item.cell}: {item.state}")
        for argv in cell_commands(matrix.spec, item.cell, matrix.results.run(item.cell.id), matrix.data_root):
            print(shlex.join(["en-bench", *argv]))
