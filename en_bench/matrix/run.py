"""Running a matrix: what is not done yet, cell by cell; a cell that fails is recorded and the next one starts.

Any number of runners share a matrix, in processes, on machines: each takes the next cell that nobody holds.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from en_bench.duration import duration
from en_bench.errors import InputError
from en_bench.lease_guard import LeaseLost
from en_bench.matrix.cell_run import CellRun
from en_bench.matrix.lease import Lease, Leases
from en_bench.matrix.overlays import shown
from en_bench.matrix.plan import Cell, PlannedCell, State, plan, plan_cell
from en_bench.matrix.records import Record, covers_set
from en_bench.matrix.spec import Spec

INTERRUPTED = 130  # the exit code of a shell's command that was interrupted


@dataclass
class _Progress:
    """Of one runner: how many cells of how many are settled, by it or by others."""

    total: int
    left: int
    start: float = field(default_factory=time.monotonic)
    ran: int = 0
    failed: int = 0

    def settle(self, record: Record) -> None:
        self.left -= 1
        self.failed += record.status == "failed"

    def number(self) -> str:
        return f"[{self.total - self.left:{len(str(self.total))}d}/{self.total}]"

    def time_left(self) -> str:
        return duration((time.monotonic() - self.start) / max(self.ran, 1) * self.left)


@dataclass(frozen=True)
class Runner:
    """Runs the cells of a matrix that are not done and that nobody else runs."""

    cells: CellRun
    leases: Leases

    def run(self, only: str = "*", cell_id: str | None = None) -> int:
        """Run what is missing of the cells whose "norm/train/seed" matches `only`, or of one.

        Returns 0, 1 if a cell failed, 130 if interrupted.
        """
        spec = self.cells.spec
        records, _ = self.cells.results.load()
        planned = select(plan(spec, records, self.cells.digests), only, spec, cell_id)
        todo = [item for item in planned if item.state is not State.DONE]
        print(f"{spec.name}: {len(planned)} cells, {len(planned) - len(todo)} of them done", flush=True)
        try:
            return self._run_all(todo, _Progress(len(planned), len(todo)))
        except KeyboardInterrupt:
            print("interrupted: finished cells are kept, the same command continues", flush=True)
            return INTERRUPTED

    def run_leased(self, lease: Lease) -> int:
        """Run the cell of a lease that is held already. Returns 0, or 1 if it failed; an interrupt passes through."""
        spec, results = self.cells.spec, self.cells.results
        records, _ = results.load()
        (item,) = select(plan(spec, records, self.cells.digests), "*", spec, lease.cell)
        with lease:
            if item.record is not None and item.record.generation >= lease.number:
                record = item.record  # it was killed after it had written the record
            else:
                record = self._run(item, lease)
        print(self.line(item.cell, record), flush=True)
        return 1 if record.status == "failed" else 0

    def _run_all(self, todo: Sequence[PlannedCell], progress: _Progress) -> int:
        waiting = list(todo)
        while waiting:
            held = [item for item in waiting if not self._settle(item, progress)]
            if len(held) == len(waiting):
                break
            waiting = held  # others may have ended meanwhile, well or not
        for item in waiting:
            holder = self.leases.holder(item.cell.id)
            print(f"{item.cell}: left to {holder.told() if holder else 'another runner'}", flush=True)
        return 1 if progress.failed else 0

    def _settle(self, item: PlannedCell, progress: _Progress) -> bool:
        """Run a cell, or find that another runner has; False if one is at it."""
        generation = item.record.generation if item.record is not None else 0
        results, cell_id = self.cells.results, item.cell.id
        lease = self.leases.take(cell_id, after=results.generation(cell_id))
        if lease is None:
            return False
        began = time.monotonic()
        try:
            with lease:
                record = results.find(cell_id)
                if record is not None and record.generation > generation:
                    progress.settle(record)
                    return True
                record = self._run(item, lease)
        except LeaseLost as lost:
            print(f"{item.cell}: {lost}", flush=True)
            return False
        progress.ran += 1
        progress.settle(record)
        spent = f"{duration(time.monotonic() - began)}   time left {progress.time_left()}"
        print(f"{progress.number()} {self.line(item.cell, record)}   {spent}", flush=True)
        return True

    def _run(self, item: PlannedCell, lease: Lease) -> Record:
        spec = self.cells.spec
        targets = {label: spec.target(label) for label in spec.validate}
        # Planned anew: a runner that was killed before it wrote the record may have left more than there was.
        fresh = plan_cell(item.cell, item.record, targets, self.cells.digests)
        return self.cells.run(fresh, lease.number)

    def line(self, cell: Cell, record: Record) -> str:
        """Cell and outcome, as a runner tells them."""
        spec = self.cells.spec
        norms, trains = max(map(len, spec.norms)), max(map(len, spec.train))
        name = f"{cell.norm:<{norms}}  {cell.train:<{trains}}  seed {cell.seed}"
        if record.status == "failed":
            return f"{name}   FAILED: {record.reason} (log: {shown(self.cells.results.folder / record.log)})"
        scale = 1 if spec.metric == "nll" else 100
        scores = []
        for label in spec.validate:
            value = record.validate[label]["metrics"].get(spec.metric)
            part = "" if covers_set(record.validate[label]) else " PART"
            scores.append(f"{label} {'nan' if value is None else f'{value * scale:.1f}'}{part}")
        return f"{name}   {'  '.join(scores)}"


def select(planned: Sequence[PlannedCell], only: str, spec: Spec, cell_id: str | None = None) -> list[PlannedCell]:
    """The cells whose "norm/train/seed" matches a shell pattern, or the one with an id; InputError for none."""
    if cell_id is not None:
        chosen = [item for item in planned if item.cell.id == cell_id]
        if not chosen:
            raise InputError(f"--cell {cell_id}: no cell of {spec.path} has this id: its overlays may have changed")
        return chosen
    chosen = [item for item in planned if fnmatchcase(str(item.cell), only)]
    if not chosen:
        raise InputError(
            f"--only {only}: no cell of {spec.path} matches; a cell is named normaliser/training set/seed, "
            f"such as {planned[0].cell}"
        )
    return chosen
