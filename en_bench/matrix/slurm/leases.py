"""Leases that jobs of Slurm hold: taken before a job is submitted, theirs while they wait, run and wait again.

Between the lease and `sbatch`, and between `sbatch` and the note of the job's number, the submitting process may be
killed. So the lease names the job that will be, by a name that no other job has, and whether it was is asked of Slurm.
"""

from __future__ import annotations

import contextlib
import getpass
import time
from dataclasses import dataclass, field
from typing import Any

from en_bench.lease_guard import LeaseLost
from en_bench.matrix.lease import Found, Lease, Leases, lives, local_holder
from en_bench.matrix.results import Results
from en_bench.matrix.slurm.queue import QueuedJob, SlurmUnreachable, cluster_facts, queued_jobs

KIND = "slurm"
_SECONDS_TO_TRUST = 30.0
_SHARE = 0.1  # of the time may go into asking a controller that is slow, or does not answer
_SECONDS_OF_A_DATE = 2.0  # file systems round the dates of files
_OF_PROCESS = ("pid", "machine", "process")


@dataclass
class SlurmJudge:
    """Whether the job of a lease is still to come, or at work.

    What Slurm has answered holds for `seconds`, then it is asked anew when there is something to ask. A job that it did
    not name is gone only where it was asked after the lease had been written: the job may have been submitted since.

    Where Slurm does not answer, every job lives: nothing is doubled, and `unreachable` says why nothing is known.
    """

    seconds: float = _SECONDS_TO_TRUST
    unreachable: str | None = None
    _jobs: dict[tuple[str, int], QueuedJob] | None = field(default=None, repr=False)
    _cluster: str = ""
    _asked: float = 0.0
    _ask_at: float | None = None

    def __call__(self, found: Found) -> bool:
        return _has_process(found) or self.knows(found) is not False

    def knows(self, found: Found) -> bool | None:
        """Whether Slurm knows the job; None where that cannot be told here."""
        job = self.job(found)
        return None if self._jobs is None or not self._is_here(found) else job is not None

    def job(self, found: Found) -> QueuedJob | None:
        """The job of a lease, as Slurm tells it."""
        if self._ask_at is None or time.monotonic() >= self._ask_at:
            self._ask()
        job = self._named(found)
        written_since = found.silence < time.monotonic() - self._asked + _SECONDS_OF_A_DATE
        if job is None and self._jobs is not None and self._is_here(found) and written_since:
            self._ask()
            job = self._named(found)
        return job

    def _named(self, found: Found) -> QueuedJob | None:
        if self._jobs is None or not self._is_here(found):
            return None
        return self._jobs.get((str(found.holder.get("name")), int(found.holder.get("task", -1))))

    def _is_here(self, found: Found) -> bool:
        return found.holder.get("cluster") == self._cluster

    def _ask(self) -> None:
        self._asked = time.monotonic()
        try:
            self._cluster, _ = cluster_facts()
            self._jobs, self.unreachable = queued_jobs(), None
        except SlurmUnreachable as error:
            self._jobs, self.unreachable = None, str(error)
        answered = time.monotonic()
        self._ask_at = answered + max(self.seconds, (answered - self._asked) / _SHARE)


def leases_of(results: Results, judge: SlurmJudge | None = None) -> Leases:
    """The leases of a matrix, whoever holds them: processes or jobs."""
    return Leases(results.leases, {KIND: SlurmJudge() if judge is None else judge})


def submitting_holder(name: str, task: int, cluster: str) -> dict[str, Any]:
    """The holder of a cell that this process is about to submit as `task` of the array of jobs called `name`."""
    told = f"the Slurm job {name}, task {task}, submitted by {getpass.getuser()}"
    return {**local_holder(), "kind": KIND, "name": name, "task": task, "cluster": cluster, "told": told}


def note_submitted(lease: Lease, array: str) -> None:
    """Notes the number of the job, which lives without this process from now on: if it has not started already."""
    number = f"{array}_{lease.holder['task']}"
    rest = {key: value for key, value in lease.holder.items() if key not in _OF_PROCESS}
    lease.holder = {**rest, "job": number, "told": f"Slurm job {number}"}
    with contextlib.suppress(LeaseLost):
        lease.rewrite()


def _has_process(found: Found) -> bool:
    """Whether a process, that of the job or the one that submits it, gives signs of life."""
    return "process" in found.holder and lives(found)
