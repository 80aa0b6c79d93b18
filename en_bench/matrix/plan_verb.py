"""`en-bench matrix plan` and `en-bench matrix status`: the cells with their states."""

from __future__ import annotations

import argparse

from en_bench.matrix.opened import open_matrix
from en_bench.matrix.plan import PlannedCell, State, count_states
from en_bench.matrix.process import Execute
from en_bench.matrix.slurm_status import slurm_lines


def plan_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Lists every cell. Returns the exit code."""
    matrix = open_matrix(args)
    planned = matrix.planned()
    width = max(len(str(item.cell)) for item in planned)
    for item in planned:
        print(f"{item.cell.id}  {item.cell!s:<{width}}  {item.state}")
    spec = matrix.spec
    print(
        f"{len(spec.norms)} normalisers x {len(spec.train)} training sets x {len(spec.seeds)} seeds = {len(planned)} "
        f"trainings, each validated on {len(spec.validate)} sets"
    )
    print(count_states(planned))
    return 0


def status_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Counts the cells by state, and says why cells failed. Returns the exit code."""
    matrix = open_matrix(args)
    planned = matrix.planned()
    for line in slurm_lines(matrix, planned):
        print(line)
    for state in State:
        names = [item for item in planned if item.state is state]
        if state is State.FAILED:
            for item in names:
                print(f"failed  {item.cell}  {item.record.reason if item.record else ''}")
        elif names:
            print(f"{state}  {' '.join(_compact(names))}")
    print(count_states(planned))
    return 0


def _compact(items: list[PlannedCell]) -> list[str]:
    """`norm/train/0,1,2` for each normaliser and training set."""
    seeds: dict[str, list[str]] = {}
    for item in items:
        seeds.setdefault(f"{item.cell.norm}/{item.cell.train}", []).append(str(item.cell.seed))
    return [f"{name}/{','.join(found)}" for name, found in seeds.items()]
