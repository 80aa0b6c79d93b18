"""What a job of Slurm runs: one cell, under the lease that was taken for it; told to stop, it requeues itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from en_bench.errors import InputError
from en_bench.lease_guard import LeaseLost
from en_bench.matrix.cell_run import CellRun, outstanding
from en_bench.matrix.lease import Lease
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.records import read_json
from en_bench.matrix.run import Runner
from en_bench.matrix.slurm.leases import leases_of
from en_bench.matrix.slurm.queue import SlurmUnreachable, ask, job_now, node_address
from en_bench.matrix.slurm.submit import FORMAT, SUBMISSION, VERSION
from en_bench.stop import STOPPED, signalled_to_stop, stoppable

_MOST_STARTS = 3  # of a job that gets no further
_ATTEMPTS, _SECONDS_BETWEEN = 10, 3.0
_SECONDS_TO_FOLLOW = 60  # of the other ranks, once one has ended
_RESERVE = 15.0  # seconds that remain for `scontrol requeue` where a training does not end its step in time
_KILL_WAIT = 30.0  # Slurm's default of the seconds between SIGTERM, at the end of a job, and SIGKILL


@dataclass(frozen=True)
class Task:
    """One task of an array: its cell, the token of the lease, and what starts its ranks."""

    number: str
    cell: str
    token: str
    starter: tuple[str, ...]
    signal_seconds: float


def run_job(open_cells: Callable[[], CellRun], folder: Path, environment: Mapping[str, str] = os.environ) -> int:
    """Runs the cell of this task. Returns 0, 1 if it failed, or 75 if it was stopped: then it is queued again.

    Up to here signals are ignored (`submit` sees to it) and at the end again: nothing lies between that could be cut
    short by one. A preemption that is ignored ends in Slurm's own requeueing.
    """
    task = read_task(folder, environment)
    job = _Job(task, int(environment.get("SLURM_RESTART_COUNT", "0")))
    os.environ.setdefault("MASTER_ADDR", _rendezvous(task, environment))
    try:
        with stoppable(), job.requeued_when_late():
            return job.run(open_cells())
    except LeaseLost as lost:
        print(f"job {task.number}: {lost}", flush=True)
        return 0
    except KeyboardInterrupt:
        if not job.requeue() and job.lease is not None:
            job.lease.give_back()
        return STOPPED


def why_not_again(lease: Lease, cells: CellRun, item: PlannedCell) -> str | None:
    """Notes in its lease how far a cell is when its job starts; the reason why it should not run, if there is one.

    A job that is queued again before it has saved anything would be so for ever. Raises LeaseLost.
    """
    try:
        work, reached = outstanding(cells.spec, item, cells.results, cells.digests), cells.reached(item)
    except OSError:  # which fails the cell, with the file's name, if it is there to stay
        return None
    step = 0 if reached is None else reached.step
    stage = {"fit": work.fit, "step": step, "validate": list(work.labels), "adapt": list(work.adapted)}
    before = lease.holder.get("starts")
    in_vain = int(before["count"]) if isinstance(before, dict) and before.get("stage") == stage else 0
    lease.holder = {**lease.holder, "starts": {"stage": stage, "count": in_vain + 1}}
    lease.rewrite()
    if in_vain < _MOST_STARTS:
        return None
    return (
        f"{in_vain} starts of its Slurm job in a row have saved nothing: give slurm.time for an epoch, or a "
        "validation, at least, or save more often (checkpoint.every_minutes)"
    )


def read_task(folder: Path, environment: Mapping[str, str]) -> Task:
    """What this task of the array is to do; InputError if the folder, or the environment, is not of one."""
    job, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    if job is None or index is None:
        raise InputError("--slurm-job is for jobs that --launcher slurm has submitted: use --launcher slurm")
    try:
        raw = read_json(folder / SUBMISSION)
        if (raw["format"], raw["version"]) != (FORMAT, VERSION):
            raise InputError(f"not a submission of format {FORMAT}, version {VERSION}")
        cell = raw["cells"][int(index)]
        ranks = _srun(raw) if raw["tasks"] > 1 else ()
        return Task(f"{job}_{index}", str(cell["cell"]), str(cell["token"]), ranks, float(raw["signal_seconds"]))
    except (InputError, KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{folder / SUBMISSION} does not tell what task {index} is to do: {error}") from None


def _srun(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """What starts the ranks of a command, as one step of the job."""
    tasks, nodes = int(raw["tasks"]), int(raw["nodes"])
    cpus = [] if raw["cpus_per_task"] is None else [f"--cpus-per-task={int(raw['cpus_per_task'])}"]
    shape = [f"--nodes={nodes}", f"--ntasks={tasks}", f"--ntasks-per-node={tasks // nodes}", *cpus]
    return ("srun", *shape, "--kill-on-bad-exit=0", f"--wait={_SECONDS_TO_FOLLOW}")


def _rendezvous(task: Task, environment: Mapping[str, str]) -> str:
    """Where the ranks find the first of them: on the node on which the job's script runs.

    Lightning takes the node's name, which is Slurm's: the other nodes need not know it.
    """
    node = environment.get("SLURMD_NODENAME")
    return (node_address(node) or node) if task.starter and node is not None else "127.0.0.1"


@dataclass
class _Job:
    """This job while it runs: the lease, once it is its own, and whether it was queued again."""

    task: Task
    restarts: int
    lease: Lease | None = None
    _requeued: bool | None = None
    _deciding: threading.Lock = field(default_factory=threading.Lock)

    def run(self, cells: CellRun) -> int:
        task, leases = self.task, leases_of(cells.results)
        lease = leases.adopt(task.cell, task.token)
        if lease is None:
            print(f"job {task.number}: cell {task.cell} was given back or taken over: nothing to do", flush=True)
            return 0
        self.lease = lease
        lease.holder = {**lease.holder, "job": task.number, "told": f"Slurm job {task.number}"}
        lease.kept = True  # when it is interrupted: the job comes back to it
        try:
            lease.rewrite()
            runner = Runner(replace(cells, starter=task.starter), leases)
            return runner.run_leased(lease, partial(why_not_again, lease, cells))
        except InputError:
            lease.give_back()
            raise

    def requeue(self) -> bool:
        """Has Slurm queue the job again, which ends this process too; says so where it does not.

        Only once: two threads may find that it is time, and whoever is second is told what came of the first.
        """
        with self._deciding:
            if self._requeued is None:
                self._requeued = self._requeue()
            return self._requeued

    def _requeue(self) -> bool:
        number, said = self.task.number, ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_SECONDS_BETWEEN)
            try:
                now = job_now(number)
                if now.restarts > self.restarts:
                    print(f"job {number}: stopped; Slurm has queued it again", flush=True)
                    return True
                if now.ends and not now.taken_away:  # Slurm would queue it again if asked to
                    print(f"job {number}: cancelled: the next `matrix run` submits the cell", flush=True)
                    return False
                ask("scontrol", "requeue", number)
            except SlurmUnreachable as error:
                said = str(error)
                continue
            print(f"job {number}: stopped and queued again", flush=True)
            return True
        print(f"job {number}: not queued again ({said}): the next `matrix run` submits the cell", flush=True)
        return False

    @contextmanager
    def requeued_when_late(self) -> Iterator[None]:
        """While a cell runs: where its step does not end in time after a signal, the job is queued again all the same.

        What was trained since the last checkpoint is then lost; without it Slurm would end the job for good.
        """
        over = threading.Event()

        def watch() -> None:
            while (by := signalled_to_stop()) is None:
                if over.wait(0.5):
                    return
            if not over.wait(seconds_to_save(self.task.signal_seconds if by == signal.SIGUSR1 else _KILL_WAIT)):
                print(f"job {self.task.number}: the step has not ended in time", flush=True)
                self.requeue()

        threading.Thread(target=watch, name="requeue", daemon=True).start()
        try:
            yield
        finally:
            over.set()


def seconds_to_save(seconds: float) -> float:
    """How many of the seconds between a signal and the end of a job a step may take to end and to be saved."""
    return max(seconds - _RESERVE, seconds / 2)
