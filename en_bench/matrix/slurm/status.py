"""What Slurm does of a matrix, for `en-bench matrix status`: from leases, records and squeue."""

from __future__ import annotations

from collections.abc import Sequence

from en_bench.matrix.lease import Found
from en_bench.matrix.opened import OpenedMatrix
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.slurm.leases import KIND, SlurmJudge, leases_of


def slurm_lines(matrix: OpenedMatrix, planned: Sequence[PlannedCell]) -> list[str]:
    """A line for each cell that is queued, at work, or whose job ended without a record, and what Slurm has to say."""
    judge = SlurmJudge()
    leases = leases_of(matrix.results, judge)
    lines = []
    for item in planned:
        found = leases.find(item.cell.id) if item.state is not State.DONE else None
        if found is None or found.released or found.holder.get("kind") != KIND:
            continue
        if item.record is not None and item.record.generation >= found.number:
            continue
        lines.append(_line(item, found, judge))
    if lines and judge.unreachable is not None:
        lines.append(f"{judge.unreachable}: what is queued is told as it was submitted")
    return lines


def _line(item: PlannedCell, found: Found, judge: SlurmJudge) -> str:
    job = judge.job(found)
    if job is not None:
        return f"{'running' if job.runs else 'queued'}  {item.cell}  {job.told()}"
    if judge(found):
        return f"queued  {item.cell}  {found.told()}"
    return f"lost  {item.cell}  {found.told()} ended without a record: the next run submits it again"
