"""The cost of a matrix as it lies there: from its specification, records, runs and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from en_bench.matrix.cell_run import outstanding
from en_bench.matrix.commands import checkpoint_path
from en_bench.matrix.cost.amount import Sizes, Unknown, set_sizes
from en_bench.matrix.cost.costs import Cost, Disk, Rest, Saving, cost_of, disk_of
from en_bench.matrix.cost.known import Known, of_unfinished
from en_bench.matrix.lease import Found
from en_bench.matrix.opened import OpenedMatrix
from en_bench.matrix.plan import Cell, PlannedCell, State
from en_bench.matrix.progress import read_progress
from en_bench.matrix.records import Record
from en_bench.matrix.slurm.leases import KIND, SlurmJudge, leases_of
from en_bench.matrix.training import is_kept, trained_so_far
from en_bench.resume.reached import Reached


def matrix_cost(
    matrix: OpenedMatrix,
    everything: Sequence[PlannedCell],
    planned: Sequence[PlannedCell],
    given: Mapping[str, float],
    reached: Mapping[str, Reached],
    device: str = "*",
) -> Cost:
    """What the `planned` cells cost, and what is left of them.

    Known is what the records of `everything` tell, then its unfinished trainings, then records of other matrices, then
    probes, of devices whose name matches a pattern; `given` seconds per step come before all. `reached` is how far
    trainings are, by the cell's id.
    """
    paces = ((item.cell, found.pace) for item in everything if (found := reached.get(item.cell.id)) is not None)
    measured = (of_unfinished(cell, pace, matrix.results) for cell, pace in paces if pace is not None)
    known = Known(matrix.results, _records(everything), device, filter(None, measured))

    def rest(item: PlannedCell) -> Rest:
        return _rest(matrix, item, reached.get(item.cell.id))

    return cost_of(matrix.spec, planned, known, sizes_of(matrix, everything), rest, given)


def not_known(cost: Cost) -> list[Cell]:
    """The cells that are not done and of which nothing tells what a step takes."""
    pairs = zip(cost.planned, cost.cells, strict=True)
    return [
        item.cell for item, one in pairs if item.state is not State.DONE and isinstance(one, Unknown) and one.no_rate
    ]


def sizes_of(matrix: OpenedMatrix, planned: Sequence[PlannedCell]) -> Sizes:
    """The samples of sets, by their manifests, else by the records."""
    return set_sizes(matrix.shards, _records(planned))


def _records(planned: Sequence[PlannedCell]) -> list[Record]:
    return [item.record for item in planned if item.record is not None]


def checkpoint_disk(matrix: OpenedMatrix, cost: Cost, slots: int) -> Disk:
    """What the checkpoints of a matrix take of the disk that its results lie on."""

    def saving(item: PlannedCell) -> Saving:
        if item.state is State.DONE:
            return Saving(some=False, stays=False)
        work = outstanding(matrix.spec, item, matrix.results, matrix.digests)
        run = matrix.results.run(item.cell.id)
        # One that goes on replaces its own checkpoint, and remains that cannot go on make way for the new training.
        replaced = checkpoint_path(run).is_file() and not is_kept(run)
        return Saving(some=work.fit or bool(work.adapted), stays=work.fit and not replaced)

    return disk_of(cost, matrix.results.folder, saving, slots)


def _rest(matrix: OpenedMatrix, item: PlannedCell, reached: Reached | None) -> Rest:
    if item.state is State.DONE:
        return Rest(0.0)
    work = outstanding(matrix.spec, item, matrix.results, matrix.digests)
    share = 1.0 - (0.0 if reached is None else reached.share) if work.fit else 0.0
    return Rest(share, frozenset(work.labels), frozenset(work.adapted))


def trainings_reached(
    matrix: OpenedMatrix, planned: Sequence[PlannedCell], at_work: Mapping[str, str]
) -> dict[str, Reached]:
    """How far the trainings are that have begun and can go on, by the cell's id; `at_work` as the function says it."""
    found = {item.cell.id: _reached(matrix, item, item.cell.id in at_work) for item in planned}
    return {cell: reached for cell, reached in found.items() if reached is not None}


def _reached(matrix: OpenedMatrix, item: PlannedCell, at_work: bool) -> Reached | None:
    run = matrix.results.run(item.cell.id)
    saved = None if item.state is State.DONE else trained_so_far(run, item.cell, matrix.digests)
    progress = read_progress(run) if at_work and saved is not None else None
    # Of a process that was killed it tells of steps that are lost.
    pace = None if saved is None else saved.pace
    if progress is None or progress.command != "fit":
        return saved
    return Reached(progress.epoch or 1, progress.epochs, progress.step, progress.steps, pace)


def at_work(matrix: OpenedMatrix, planned: Sequence[PlannedCell]) -> dict[str, str]:
    """`running` or `queued` by the id of each cell that somebody alive holds and that is not done."""
    judge = SlurmJudge()
    leases = leases_of(matrix.results, judge)
    held = {item.cell.id: leases.holder(item.cell.id) for item in planned if item.state is not State.DONE}
    return {cell: _working(found, judge) for cell, found in held.items() if found is not None}


def _working(found: Found, judge: SlurmJudge) -> str:
    if found.holder.get("kind") != KIND:
        return "running"
    job = judge.job(found)
    return "running" if job is not None and job.runs else "queued"
