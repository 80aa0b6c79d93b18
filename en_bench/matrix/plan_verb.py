"""`en-bench matrix plan` and `en-bench matrix status`: the cells with their states."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from en_bench.arguments import positive
from en_bench.errors import InputError
from en_bench.files import write_json
from en_bench.matrix.collection import collection_paused
from en_bench.matrix.cost.given import check_given, check_order, in_order, seconds_in_flags
from en_bench.matrix.cost.planned import (
    at_work,
    checkpoint_disk,
    matrix_cost,
    not_known,
    sizes_of,
    trainings_reached,
)
from en_bench.matrix.cost.probe import probe_shapes
from en_bench.matrix.cost.table import at_work_line, cell_lines, plan_json, summary_lines
from en_bench.matrix.opened import OpenedMatrix, no_results, open_matrix, require_data, require_results
from en_bench.matrix.options import check_options
from en_bench.matrix.overlays import shown
from en_bench.matrix.plan import PlannedCell, State, count_states
from en_bench.matrix.process import Execute
from en_bench.matrix.run import select
from en_bench.matrix.running import running_lines
from en_bench.matrix.slurm.status import slurm_lines


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Of `en-bench matrix plan`."""
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only cells whose norm/train/seed matches (may be repeated)",
    )
    parser.add_argument(
        "--seconds-per-step",
        action="append",
        default=[],
        metavar="[PATTERN=]SECONDS",
        help="what a step takes, of all cells or of a normaliser or pattern (may be repeated: the last match counts)",
    )
    parser.add_argument(
        "--probe", action="store_true", help="measure shapes of which nothing is known by a few real steps of one cell"
    )
    parser.add_argument("--probe-steps", type=positive, default=20, metavar="N", help="steps that are measured (20)")
    parser.add_argument("--slots", type=positive, default=1, metavar="N", help="devices that work side by side (1)")
    parser.add_argument(
        "--device", default="*", metavar="PATTERN", help="believe only what was measured on such devices"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the plan for scripts")


@collection_paused()
def plan_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Lists every cell, and what all of it costs. Returns the exit code."""
    if args.json is not None:
        _check_file(args.json)
    matrix = open_matrix(args)
    check_options(matrix.spec)
    require_data(matrix)
    everything = matrix.planned()
    in_spec, in_flags = matrix.spec.seconds_per_step, seconds_in_flags(args.seconds_per_step)
    cells = [item.cell for item in everything]
    for numbers, where in ((in_spec, f"{matrix.spec.path}: seconds_per_step"), (in_flags, "--seconds-per-step")):
        check_given(numbers, cells, where)
        check_order(numbers, cells, where)
    given = in_order(in_spec, in_flags)
    planned = select(everything, args.only, matrix.spec)
    busy = at_work(matrix, planned)
    reached = trainings_reached(matrix, everything, busy)
    cost = matrix_cost(matrix, everything, planned, given, reached, args.device)
    failed = 0
    if args.probe and (unknown := not_known(cost)):
        failed = probe_shapes(matrix, unknown, sizes_of(matrix, everything), args.probe_steps, _tell)
        cost = matrix_cost(matrix, everything, planned, given, reached, args.device)
    disk = checkpoint_disk(matrix, cost, args.slots)
    folder = shown(matrix.results.folder)
    for line in cell_lines(planned, cost, busy, reached):
        print(line)
    for line in summary_lines(matrix.spec, planned, cost, disk, args.slots, folder):
        print(line)
    if told := at_work_line(busy):
        print(told)
    if (nothing := no_results(matrix.results)) is not None:
        print(nothing)
    print(count_states(planned))
    if args.json is not None:
        write_json(args.json, plan_json(matrix.spec, planned, cost, disk, args.slots, busy))
    return 1 if failed else 0


@collection_paused()
def status_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Counts the cells by state, and says why cells failed. Returns the exit code."""
    matrix = open_matrix(args)
    require_results(matrix.results, args)
    planned = matrix.as_recorded()
    for line in [*running_lines(matrix, planned), *slurm_lines(matrix, planned), *stopped_lines(matrix, planned)]:
        print(line)
    for state in State:
        names = [item for item in planned if item.state is state]
        if state is State.FAILED:
            for item in names:
                print(f"failed  {item.cell}  {item.record.reason if item.record else ''}")
        elif names:
            print(f"{state}  {' '.join(_compact(names))}")
    if (nothing := no_results(matrix.results)) is not None:
        print(nothing)
    print(count_states(planned))
    return 0


def stopped_lines(matrix: OpenedMatrix, planned: Sequence[PlannedCell]) -> Iterator[str]:
    """A line for each cell whose training has begun, can go on, and is nobody's at the moment."""
    busy = at_work(matrix, planned)
    reached = trainings_reached(matrix, planned, busy)
    for item in planned:
        if item.cell.id in reached and item.cell.id not in busy:
            yield f"stopped  {item.cell}  goes on at {reached[item.cell.id]}"


def _check_file(path: Path) -> None:
    """Before anything is measured or printed, which may take minutes."""
    if not path.absolute().parent.is_dir():
        raise InputError(f"--json {path}: there is no folder {path.parent}: make it first")
    if path.is_dir():
        raise InputError(f"--json {path}: it is a folder: give a file in it, such as {path / 'plan.json'}")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _compact(items: list[PlannedCell]) -> list[str]:
    """`norm/train/0,1,2` for each normaliser and training set."""
    seeds: dict[str, list[str]] = {}
    for item in items:
        seeds.setdefault(f"{item.cell.norm}/{item.cell.train}", []).append(str(item.cell.seed))
    return [f"{name}/{','.join(found)}" for name, found in seeds.items()]
