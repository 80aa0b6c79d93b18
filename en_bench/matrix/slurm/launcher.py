"""`en-bench matrix run --launcher slurm`: submits what nobody holds, and watches it if asked to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from en_bench.errors import InputError
from en_bench.matrix.glances import Glances
from en_bench.matrix.lease import Found
from en_bench.matrix.local.live import Screen
from en_bench.matrix.local.tally import Settled, Tally
from en_bench.matrix.opened import OpenedMatrix, warn
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.run import INTERRUPTED, select
from en_bench.matrix.slurm.leases import KIND, SlurmJudge, leases_of
from en_bench.matrix.slurm.options import Shape, leaves_gpus_open
from en_bench.matrix.slurm.submit import NOTHING_SUBMITTED, by_shape, script, slurm_folder, submit
from en_bench.plural import counted

_SECONDS_BETWEEN_LOOKS = 5.0


def launch(matrix: OpenedMatrix, planned: Sequence[PlannedCell], flags: Mapping[str, Any]) -> None:
    """Submits those of the cells that are not done and that nobody holds.

    Raises InputError where Slurm does not answer, or refuses.
    """
    todo = [item for item in planned if item.state is not State.DONE]
    print(Tally(matrix.spec, matrix.results, planned).head(), flush=True)
    judge = SlurmJudge()
    leases = leases_of(matrix.results, judge)
    glances = Glances(leases)
    free, holders = [], Counter[str]()
    for item in todo:
        holder = glances.holder(item.cell.id)
        if holder is not None:
            job = str(holder.holder.get("job", ""))
            holders[f"Slurm job {job.partition('_')[0]}" if job else holder.told()] += 1
            continue
        last = glances.find(item.cell.id)
        if last is not None and not last.released and last.holder.get("kind") == KIND and not _has_record(item, last):
            print(f"{item.cell}: {last.told()} ended without a record: submitted again", flush=True)
        free.append(item)
    if judge.unreachable is not None:
        raise InputError(f"{judge.unreachable}: {NOTHING_SUBMITTED}")
    for told, count in holders.items():
        print(f"{counted(count, 'cell')} left to {told}", flush=True)
    _warn_of_no_gpus(free, matrix, flags)
    for submitted in submit(free, matrix, leases, flags):
        cells = submitted.cells
        print(f"Slurm job {submitted.array}: {counted(len(cells), 'cell')} ({_told(submitted.shape)})", flush=True)
    if todo:
        print(f"logs: {slurm_folder(matrix.results)}   en-bench matrix status tells how far they are", flush=True)


def print_scripts(matrix: OpenedMatrix, only: Sequence[str], flags: Mapping[str, Any]) -> None:
    """What sbatch would be given for the cells that are not done."""
    todo = [item for item in select(matrix.planned(), only, matrix.spec) if item.state is not State.DONE]
    _warn_of_no_gpus(todo, matrix, flags)
    for shape, group in by_shape(todo, matrix, flags):
        print(f"# {counted(len(group), 'cell')}: {' '.join(str(item.cell) for item in group)}")
        print(script(shape, len(group), matrix))


def _warn_of_no_gpus(cells: Sequence[PlannedCell], matrix: OpenedMatrix, flags: Mapping[str, Any]) -> None:
    groups = by_shape(cells, matrix, flags)
    count = sum(leaves_gpus_open(item.cell, shape.options) for shape, group in groups for item in group)
    if count:
        warn(
            f"the jobs of {counted(count, 'cell')} ask for no GPU: give --slurm gpus_per_node=N (0 for none), or set "
            "trainer.accelerator to gpu or cpu"
        )


def watch(matrix: OpenedMatrix, planned: Sequence[PlannedCell]) -> int:
    """Tells of each cell when its record is there, until none is to come. Returns 0, 1 (failed or lost), or 130."""
    tally, lost = Tally(matrix.spec, matrix.results, planned), 0
    waiting = list(tally.waiting)
    judge = SlurmJudge(_SECONDS_BETWEEN_LOOKS)
    glances = Glances(leases_of(matrix.results, judge))
    try:
        with Screen() as screen:
            while waiting:
                held = {item.cell.id: glances.holder(item.cell.id) for item in waiting}
                queued = {item.cell.id for item in tally.waiting}
                for item in waiting:
                    found = held[item.cell.id]
                    job = judge.job(found) if found is not None and found.holder.get("kind") == KIND else None
                    if item.cell.id in queued and (found is None or (job is not None and job.runs)):
                        tally.begin(item, job.number if job is not None else "")
                    if found is None:
                        lost += not _end(item, matrix, glances, tally, screen)
                waiting = [item for item in waiting if held[item.cell.id] is not None]
                screen.show(tally.view)
                if waiting:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        print("no longer watched: the jobs go on, and the same command watches again", flush=True)
        return INTERRUPTED
    return 1 if lost or tally.failed else 0


def _end(item: PlannedCell, matrix: OpenedMatrix, glances: Glances, tally: Tally, screen: Screen) -> bool:
    """Nobody holds the cell any more: tells what has become of it; False if its job has left no record."""
    record, last = matrix.results.find(item.cell.id), glances.find(item.cell.id)
    planned = item.record.generation if item.record is not None else 0
    if record is None or record.generation <= planned:  # what stood there before tells nothing of this job
        tally.leave(item)
        screen.say(f"{item.cell}: {last.told() if last else 'its job'} ended without a record")
        return False
    line = tally.settle(item, Settled(record, float(record.fit.get("cost", {}).get("seconds", 0.0))))
    screen.say(str(line))
    return True


def _has_record(item: PlannedCell, last: Found) -> bool:
    return item.record is not None and item.record.generation >= last.number


def _told(shape: Shape) -> str:
    options = shape.options
    parts = [
        f"{counted(shape.nodes, 'node')} x {counted(shape.tasks_per_node, 'task')}",
        *([f"{counted(options.gpus_per_node, 'GPU')} per node"] if options.gpus_per_node else []),
        *([f"partition {options.partition}"] if options.partition else []),
        *([f"{options.minutes} minutes"] if options.minutes else []),
    ]
    return ", ".join(parts)
