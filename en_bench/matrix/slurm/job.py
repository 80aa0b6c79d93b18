"""What a job of Slurm runs: one cell, under the lease that was taken for it; told to stop, it requeues itself."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from en_bench.errors import InputError
from en_bench.lease_guard import LeaseLost
from en_bench.matrix.cell_run import CellRun
from en_bench.matrix.records import read_json
from en_bench.matrix.run import INTERRUPTED, Runner
from en_bench.matrix.slurm.leases import leases_of
from en_bench.matrix.slurm.submit import FORMAT, SUBMISSION, VERSION
from en_bench.stop import asked_to_stop

_ATTEMPTS, _SECONDS_BETWEEN = 10, 3.0
_SECONDS_TO_FOLLOW = 60  # of the other ranks, once one has ended
_RESERVE = 15.0  # seconds that remain for `scontrol requeue` where a training does not end its step in time


@dataclass(frozen=True)
class Task:
    """One task of an array: its cell, the token of the lease, and what starts its ranks."""

    number: str
    cell: str
    token: str
    starter: tuple[str, ...]
    signal_seconds: float


def run_job(cells: CellRun, folder: Path, environment: Mapping[str, str] = os.environ) -> int:
    """Runs the cell of this task. Returns 0, 1 if it failed, or 130 if it was stopped: then it is queued again."""
    task = read_task(folder, environment)
    lease = leases_of(cells.results).adopt(task.cell, task.token)
    if lease is None:
        print(f"job {task.number}: cell {task.cell} was given back or taken over: nothing to do", flush=True)
        return 0
    lease.holder = {**lease.holder, "job": task.number, "told": f"Slurm job {task.number}"}
    lease.kept = True  # when it is interrupted: the job comes back to it
    try:
        lease.rewrite()
        with _requeued_when_late(task):
            return Runner(replace(cells, starter=task.starter), leases_of(cells.results)).run_leased(lease)
    except LeaseLost as lost:
        print(f"job {task.number}: {lost}", flush=True)
        return 0
    except KeyboardInterrupt:
        if not requeue(task.number):
            lease.give_back()
        return INTERRUPTED
    except InputError:
        lease.give_back()
        raise


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


def requeue(number: str) -> bool:
    """Has Slurm queue the job `number` again, which ends this process too; says so where it does not."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_SECONDS_BETWEEN)
        done = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            print(f"job {number}: stopped and queued again", flush=True)
            return True
    said = " ".join(done.stderr.split())
    print(f"job {number}: not queued again ({said}): the next `matrix run` submits the cell", flush=True)
    return False


@contextmanager
def _requeued_when_late(task: Task) -> Iterator[None]:
    """While a cell runs: where its step does not end in time after a signal, the job is queued again all the same.

    What was trained since the last checkpoint is then lost; without it Slurm would end the job for good.
    """
    over = threading.Event()

    def watch() -> None:
        while asked_to_stop() is None:
            if over.wait(0.5):
                return
        if not over.wait(max(0.0, task.signal_seconds - _RESERVE)):
            print(f"job {task.number}: the step has not ended in time", flush=True)
            requeue(task.number)

    threading.Thread(target=watch, name="requeue", daemon=True).start()
    try:
        yield
    finally:
        over.set()
