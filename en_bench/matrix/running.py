"""Cells that processes of this or other machines are running, for `en-bench matrix status`: by leases and progress."""

from __future__ import annotations

from collections.abc import Sequence

from en_bench.matrix.lease import Leases
from en_bench.matrix.local.live import Row
from en_bench.matrix.opened import OpenedMatrix
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.progress import read_progress, seconds_since_written


def running_lines(matrix: OpenedMatrix, planned: Sequence[PlannedCell]) -> list[str]:
    """A line for each cell that a process holds which lives: how far it is, and whose it is."""
    leases, lines = Leases(matrix.results.leases), []
    for item in planned:
        cell = item.cell
        if item.state is State.DONE or not (leases.folder / cell.id).is_dir():
            continue
        holder = leases.holder(cell.id)
        if holder is not None and holder.holder.get("kind") == "local":
            run = matrix.results.run(cell.id)
            silent = seconds_since_written(run, leases.clock)
            row = Row(str(cell), holder.told(), None, read_progress(run), silent=silent)
            lines.append(f"running  {cell}  {row.words(matrix.spec.metric)}  ({row.where})")
    return lines
