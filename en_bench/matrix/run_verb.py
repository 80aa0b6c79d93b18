"""`en-bench matrix run`: what is not done yet, then the table and the page."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from en_bench.errors import InputError
from en_bench.matrix.cell_run import CellRun
from en_bench.matrix.commands import cell_commands
from en_bench.matrix.data_here import DataHere, data_here
from en_bench.matrix.local.devices import choose_gpus, default_threads, make_slots, slot_environment
from en_bench.matrix.local.launcher import LocalLauncher
from en_bench.matrix.local.live import is_terminal, tell
from en_bench.matrix.local.worker import serve
from en_bench.matrix.opened import OpenedMatrix, missing_data, open_matrix, results_of, warn
from en_bench.matrix.options import check_options
from en_bench.matrix.plan import PlannedCell, plan
from en_bench.matrix.process import Execute
from en_bench.matrix.report_verb import print_table, write_page
from en_bench.matrix.run import INTERRUPTED, Runner, select
from en_bench.matrix.slurm.job import run_job
from en_bench.matrix.slurm.launcher import launch, print_scripts, watch
from en_bench.matrix.slurm.leases import leases_of
from en_bench.matrix.slurm.options import parse_flags
from en_bench.plural import counted

_OF_THIS_MACHINE = {  # options that jobs have no use for, and what to give in their place
    "slots": "give --slurm at_once=N",
    "gpus": "give --slurm gpus_per_node=N",
    "threads": "give --slurm cpus_per_task=N",
    "isolate": "leave it out",
}


def run_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Returns 0, 1 if a cell failed or was left out for want of data, 130 if interrupted."""
    if args.slurm_job is not None:
        return run_job(lambda: _cells(open_matrix(args), args, execute), args.slurm_job)
    matrix = open_matrix(args)
    check_options(matrix.spec)
    flags = parse_flags(args.slurm)
    _check_launcher(args)
    if args.dry_run:
        if args.launcher == "slurm":
            print_scripts(matrix, args.only, flags)
        _print_commands(matrix, args.only)
        return 0
    runner = Runner(_cells(matrix, args, execute), leases_of(matrix.results))
    if args.worker:
        return serve(runner, plan(matrix.spec, matrix.results.load()[0], matrix.digests))
    planned = matrix.planned()  # warns of files that are no records before anything runs
    chosen = select(planned, args.only, matrix.spec)
    if args.launcher == "slurm":
        _warn_of_data_of_nodes(matrix, chosen)
        launch(matrix, chosen, flags)
        if not args.wait:
            return 0
        code = watch(matrix, chosen)
    else:
        here = data_here(matrix, chosen)
        here.require_some()
        if not here.waiting and (missing := missing_data(matrix)) is not None:
            warn(missing)  # whether the data have changed since cannot be seen
        code = _launch(args, runner, chosen, here)
    if code != INTERRUPTED:
        planned = matrix.as_recorded()
        page = write_page(matrix, planned)  # first: the reader of what is printed may have left
        tell("")
        with suppress(BrokenPipeError):
            print_table(matrix, planned, "text", ["matrix"])
        tell(f"page: {page}")
    return code


def _check_launcher(args: argparse.Namespace) -> None:
    """Raises InputError for options that the launcher has no use for."""
    if args.launcher != "slurm":
        if args.slurm:
            raise InputError("--slurm says what jobs need: add --launcher slurm")
        if args.wait:
            raise InputError("--wait watches jobs of Slurm: add --launcher slurm, or leave it out")
        return
    for option, cure in _OF_THIS_MACHINE.items():
        if getattr(args, option) not in (None, False):
            raise InputError(f"--{option} says how cells run here, not as jobs of Slurm: {cure}")


def _cells(matrix: OpenedMatrix, args: argparse.Namespace, execute: Execute) -> CellRun:
    return CellRun(matrix.spec, execute, matrix.results, matrix.digests, matrix.data_root, args.isolate)


def _warn_of_data_of_nodes(matrix: OpenedMatrix, chosen: Sequence[PlannedCell]) -> None:
    """Data that only the nodes see are none here, and no reason to refuse anything."""
    try:
        told = data_here(matrix, chosen).told_of_jobs()
    except InputError as error:
        told = str(error)
    if told is not None:
        warn(told)


def _launch(args: argparse.Namespace, runner: Runner, chosen: Sequence[PlannedCell], here: DataHere) -> int:
    """Runs the cells that can begin with the data that are here."""
    if (told := here.told()) is not None:
        warn(told)
    left_out = {item.cell.id for item in here.left_out}
    gpus = choose_gpus(args.gpus)
    slots = make_slots(args.slots, gpus)
    threads = args.threads or default_threads(len(slots))
    if len(slots) == 1 and not is_terminal(sys.stdout):
        # Nothing is to be drawn meanwhile: this process can do the work itself. It has not imported torch yet.
        with _environment(slot_environment(slots, gpus, threads)):
            code = runner.run(*args.only, without=left_out)
    else:
        environment = partial(slot_environment, gpus=gpus, threads=threads)
        launcher = LocalLauncher(runner, slots, _worker_arguments(args), environment)
        code = launcher.run([item for item in chosen if item.cell.id not in left_out])
    if left_out and code != INTERRUPTED:
        tell(f"{counted(len(left_out), 'cell')} left out for want of data")
        return 1
    return code


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Within it these variables are set."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _worker_arguments(args: argparse.Namespace) -> list[str]:
    """The command of a process that runs cells for this one."""
    place = ["--results", str(results_of(args))]
    place += [] if args.data_root is None else ["--data-root", str(args.data_root)]
    return ["matrix", "run", str(args.spec), *place, *(["--isolate"] if args.isolate else []), "--worker"]


def _print_commands(matrix: OpenedMatrix, only: Sequence[str]) -> None:
    for item in select(matrix.planned(), only, matrix.spec):
        print(f"# {item.cell}: {item.state}")
        for argv in cell_commands(matrix.spec, item.cell, matrix.results.run(item.cell.id), matrix.data_root):
            print(shlex.join(["en-bench", *argv]))
