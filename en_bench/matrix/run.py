"""Running a matrix: what is not done yet, cell by cell; a cell that fails is recorded and the next one starts.

Any number of runners share a matrix, in processes, on machines: each takes the next cell that nobody holds.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase

from en_bench.errors import InputError
from en_bench.lease_guard import LeaseLost, require_lease
from en_bench.matrix.cell_run import ENDS_ALL, CellRun, told_of
from en_bench.matrix.closest import did_you_mean_pattern
from en_bench.matrix.lease import Lease, Leases
from en_bench.matrix.local.live import now_and_then, tell
from en_bench.matrix.local.others import Others
from en_bench.matrix.local.stopping import Stopping
from en_bench.matrix.local.tally import Settled, Tally
from en_bench.matrix.plan import PlannedCell, plan, plan_cell
from en_bench.matrix.process import CommandStopped, CutShort, one_line
from en_bench.matrix.records import Record
from en_bench.matrix.silent import SilentHolders
from en_bench.matrix.spec import Spec
from en_bench.matrix.stopped_cells import StoppedCells, told_of_stopped
from en_bench.matrix.training import unmark_started

INTERRUPTED = 130  # the exit code of a shell's command that was interrupted


@dataclass(frozen=True)
class Runner:
    """Runs the cells of a matrix that are not done and that nobody else runs."""

    cells: CellRun
    leases: Leases

    def run(self, *only: str, without: Collection[str] = ()) -> int:
        """Run what is missing of the cells whose "norm/train/seed" matches one of `only` (default: all), but not those
        whose ids are in `without`.

        Cells whose holders have become silent are waited for until they are taken over. Returns 0, also where living
        runners hold cells yet, 1 if a cell failed, 130 if interrupted.
        """
        spec = self.cells.spec
        records, _ = self.cells.results.load()
        chosen = select(plan(spec, records, self.cells.digests), only, spec)
        planned = [item for item in chosen if item.cell.id not in without]
        others = Others(self.leases, self.cells.results)
        tally = Tally(spec, self.cells.results, planned, others=others, reached=self.cells.reached)
        tell(tally.head())
        try:
            with now_and_then(tally.view):
                self._run_all(tally)
        except KeyboardInterrupt as interrupt:
            stopping = Stopping(self.cells.results, spec.metric, tell)
            for item in tally.running():
                (stopping.cut_short if isinstance(interrupt, CutShort) else stopping.saved)(item)
            stopping.end()
            return INTERRUPTED
        for line in self.left_to_others(tally.held):
            tell(line)
        return 1 if tally.failed else 0

    def run_leased(self, lease: Lease, why_not: Callable[[PlannedCell], str | None] = lambda item: None) -> int:
        """Run the cell of a lease that is held already. Returns 0, or 1 if it failed; an interrupt passes through.

        It fails, and is not run, where `why_not` gives a reason.
        """
        spec, results = self.cells.spec, self.cells.results
        records, _ = results.load()
        (item,) = select(plan(spec, records, self.cells.digests), (), spec, lease.cell)
        if item.record is not None and item.record.generation >= lease.first:
            lease.give_back()  # it was killed after it had written the record
            return 1 if item.record.status == "failed" else 0
        tally = Tally(spec, results, [item], reached=self.cells.reached)
        tally.begin(item, "here")
        began = time.monotonic()
        with lease:
            reason = why_not(item)
            record = self._run(item, lease) if reason is None else self.cells.record(item.cell, lease.number, reason)
        if (line := tally.settle(item, Settled(record, time.monotonic() - began))) is not None:
            tell(line)
        return 1 if tally.failed else 0

    def _run_all(self, tally: Tally) -> None:
        silent = SilentHolders(self.leases, tell)
        stopped = StoppedCells(self.cells.standing)
        while more_to_do(tally, silent):
            if not tally.waiting:
                silent.wait()
                continue
            item = tally.waiting[0]
            tally.begin(item, "here")
            try:
                settled = self.settle(item)
            except CommandStopped:
                reason = stopped.stopped(item)
                if reason is None:
                    tell(told_of_stopped(item, "command"))
                    tally.wait(item)
                    continue
                settled = self.fail(item, reason)
            if settled is None:
                tally.leave(item)
            elif (line := tally.settle(item, settled)) is not None:
                tell(line)

    def settle(self, item: PlannedCell) -> Settled | None:
        """Run a cell, or find that another runner has; None if one is at it."""
        return self._under_lease(item, self._run)

    def fail(self, item: PlannedCell, reason: str, begins_anew: bool = False) -> Settled | None:
        """Record that a cell cannot be run, for a `reason`; whether its next training begins anew. As `settle` else."""

        def record(item: PlannedCell, lease: Lease) -> Record:
            if begins_anew:
                require_lease()
                unmark_started(self.cells.results.run(item.cell.id))
            return self.cells.record(item.cell, lease.number, reason)

        return self._under_lease(item, record)

    def _under_lease(self, item: PlannedCell, work: Callable[[PlannedCell, Lease], Record]) -> Settled | None:
        generation = item.record.generation if item.record is not None else 0
        results, cell_id = self.cells.results, item.cell.id
        began = time.monotonic()
        try:
            lease = self.leases.take(cell_id, after=results.generation(cell_id))
            if lease is None:
                return None
            with lease:
                record = results.find(cell_id)
                if record is not None and record.generation > generation:
                    return Settled(record, None)
                return Settled(work(item, lease), time.monotonic() - began)
        except LeaseLost as lost:
            tell(f"{item.cell}: {lost}")
            return None
        except OSError as error:
            if error.errno in ENDS_ALL:
                raise
            reason = one_line(f"no record could be written: {told_of(error)}")
            return Settled(self.cells.unsaved(item.cell, generation + 1, reason), time.monotonic() - began, saved=False)

    def left_to_others(self, held: Sequence[PlannedCell]) -> list[str]:
        """A line for each cell that other runners hold."""
        lines = []
        for item in held:
            holder = None
            with suppress(OSError):  # nothing is wanted of its folder any more
                holder = self.leases.holder(item.cell.id)
            lines.append(f"{item.cell}: left to {holder.told() if holder else 'another runner'}")
        return lines

    def _run(self, item: PlannedCell, lease: Lease) -> Record:
        spec = self.cells.spec
        targets = {label: spec.target(label) for label in spec.validate}
        # Planned anew: a runner that was killed before it wrote the record may have left more than there was.
        fresh = plan_cell(item.cell, item.record, targets, self.cells.digests, spec.adapted)
        return self.cells.run(fresh, lease.number)


def look_for_freed(tally: Tally, silent: SilentHolders) -> bool:
    """Has cells wait whose holders have left them, or count as dead; False once all holders live."""
    free = silent.look(tally.held) if tally.held else None
    if free is None:
        return False
    tally.retry(free)
    return True


def more_to_do(tally: Tally, silent: SilentHolders) -> bool:
    """Whether cells wait, as others have left them, say, or may do so once their silent holders count as dead."""
    if tally.waiting or tally.another_round():
        return True
    return look_for_freed(tally, silent)


def select(
    planned: Sequence[PlannedCell], only: Sequence[str], spec: Spec, cell_id: str | None = None
) -> list[PlannedCell]:
    """The cells whose "norm/train/seed" matches one of the shell patterns `only`, all where there is none, or the one
    with an id. Raises InputError for a pattern that no cell matches, and for an id of none."""
    if cell_id is not None:
        chosen = [item for item in planned if item.cell.id == cell_id]
        if not chosen:
            raise InputError(f"--cell {cell_id}: no cell of {spec.path} has this id: its overlays may have changed")
        return chosen
    if not only:
        return list(planned)
    names = [str(item.cell) for item in planned]
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in names):
            cure = did_you_mean_pattern(pattern, names) or (
                f"; a cell is named normaliser/training set/seed, such as {names[0]}"
            )
            raise InputError(f"--only {pattern}: no cell of {spec.path} matches{cure}")
    pairs = zip(planned, names, strict=True)
    return [item for item, name in pairs if any(fnmatchcase(name, pattern) for pattern in only)]
