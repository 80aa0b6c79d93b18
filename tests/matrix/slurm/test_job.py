"""What a job refuses, and what it does when it is told to stop, with programs in the place of Slurm's."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from en_bench.errors import InputError
from en_bench.matrix.lease import Found
from en_bench.matrix.results import Results
from en_bench.matrix.slurm import job
from en_bench.matrix.slurm.job import read_task, run_job, seconds_to_save
from en_bench.matrix.slurm.leases import leases_of, submitting_holder
from en_bench.matrix.slurm.queue import JobNow, job_now, node_address
from en_bench.matrix.slurm.submit import SUBMISSION
from en_bench.stop import STOPPED, notice_stop
from tests.matrix.slurm.programs import CELL, ENDING, RUNNING, scontrol

TWO_CELLS = {
    "format": "en_bench.submission",
    "version": 1,
    "tasks": 4,
    "nodes": 2,
    "cpus_per_task": 3,
    "signal_seconds": 60,
    "cells": [{"cell": CELL, "token": "a"}, {"cell": "f" * 16, "token": "b"}],
}


def test_a_job_that_does_not_know_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--slurm-job is for jobs that --launcher slurm has submitted"):
        read_task(tmp_path, {})
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    with pytest.raises(InputError, match=r"submission.json does not tell what task 1 is to do: the file is missing"):
        read_task(tmp_path, task)
    (tmp_path / SUBMISSION).write_text(json.dumps(TWO_CELLS))
    found = read_task(tmp_path, task)
    assert (found.number, found.cell, found.token) == ("7_1", "f" * 16, "b")
    shape = ("--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=3")
    assert found.starter[:5] == ("srun", *shape)
    with pytest.raises(InputError, match="what task 2 is to do"):
        read_task(tmp_path, {**task, "SLURM_ARRAY_TASK_ID": "2"})


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (RUNNING, JobNow(0, ends=False, taken_away=False)),
        (ENDING.format(why="None", restarts=0, preempted="None"), JobNow(0, ends=True, taken_away=False)),
        (ENDING.format(why="TimeLimit", restarts=2, preempted="None"), JobNow(2, ends=True, taken_away=True)),
        (
            ENDING.format(why="None", restarts=0, preempted="2026-01-02T03:00:00"),
            JobNow(0, ends=True, taken_away=True),
        ),
        (
            ENDING.format(why="None", restarts=1, preempted="2026-01-01T23:00:00"),
            JobNow(1, ends=True, taken_away=False),
        ),
    ],
    ids=["runs", "cancelled", "out of time", "preempted", "preempted before, now cancelled"],
)
def test_what_ends_a_job(slurm: Path, told: str, expected: JobNow) -> None:
    scontrol(slurm, told)
    assert job_now("7_1") == expected
    assert node_address("n1") == "10.0.0.7"


@dataclass
class Cells:
    """What a job opens, of which `training` is all that is reached: each test says what happens there."""

    results: Results
    training: Callable[[], None]
    starter: tuple[str, ...] = ()

    @property
    def spec(self) -> None:
        self.training()


def run_until_stopped(slurm: Path, tmp_path: Path, training: Callable[[], None], seconds: float) -> Found:
    """Runs a job that Slurm signals so many seconds before its end, and says what has become of its cell's lease."""
    results = Results(tmp_path / "results")
    lease = leases_of(results).take(CELL, holder=submitting_holder("job", 0, "here"))
    assert lease is not None
    submission = {**TWO_CELLS, "signal_seconds": seconds, "cells": [{"cell": CELL, "token": lease.token}]}
    (tmp_path / SUBMISSION).write_text(json.dumps(submission))
    environment = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", "SLURMD_NODENAME": "n1"}
    cells: Any = partial(Cells, results, training)
    assert run_job(cells, tmp_path, environment) == STOPPED
    found = leases_of(results).find(CELL)
    assert found is not None
    return found


def requeued(slurm: Path) -> int:
    """How often Slurm was asked to queue the job again."""
    asked = slurm / "asked"
    return asked.read_text().count("requeue 7_0") if asked.exists() else 0


@pytest.fixture
def no_rendezvous(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the environment is as before in the end."""
    monkeypatch.setenv("MASTER_ADDR", "")
    monkeypatch.delenv("MASTER_ADDR")


@pytest.mark.usefixtures("no_rendezvous")
@pytest.mark.parametrize(
    ("told", "asked_again", "released"),
    [
        (RUNNING, 1, False),
        (ENDING.format(why="None", restarts=0, preempted="None"), 0, True),
        (ENDING.format(why="TimeLimit", restarts=0, preempted="None"), 1, False),
        (ENDING.format(why="None", restarts=1, preempted="None"), 0, False),
    ],
    ids=["runs", "cancelled", "out of time", "queued again by Slurm"],
)
def test_a_job_that_is_stopped_keeps_its_cell_if_it_comes_back(
    slurm: Path, tmp_path: Path, told: str, asked_again: int, released: bool
) -> None:
    """Stopped by a signal that arrives as soon as it can, long before there is a training."""
    scontrol(slurm, told)
    lease = run_until_stopped(slurm, tmp_path, lambda: signal.raise_signal(signal.SIGUSR1), seconds=60)
    assert os.environ["MASTER_ADDR"] == "10.0.0.7"
    assert requeued(slurm) == asked_again
    assert lease.released == released


@pytest.mark.usefixtures("no_rendezvous")
@pytest.mark.parametrize(
    ("number", "before_the_end", "kill_wait"),
    [(signal.SIGUSR1, 0.1, 1e6), (signal.SIGTERM, 1e6, 0.1)],
    ids=["as long as was asked for", "until Slurm kills"],
)
def test_a_step_that_takes_too_long_is_not_waited_for_and_the_job_is_queued_again_once(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, before_the_end: float, kill_wait: float
) -> None:
    """The step ends all the same while Slurm is being asked: whoever is second asks no more, and waits."""
    monkeypatch.setattr(job, "_KILL_WAIT", kill_wait)
    scontrol(slurm, RUNNING, requeue="sleep 0.3; touch {answered}".format(answered=tmp_path / "answered"))

    def training() -> None:
        notice_stop(number)
        until(lambda: requeued(slurm) > 0)
        signal.raise_signal(number)

    lease = run_until_stopped(slurm, tmp_path, training, before_the_end)
    assert (tmp_path / "answered").exists() and requeued(slurm) == 1
    assert not lease.released


@pytest.mark.usefixtures("no_rendezvous")
def test_a_step_that_ends_in_time_is_waited_for(slurm: Path, tmp_path: Path) -> None:
    scontrol(slurm, RUNNING)
    number = signal.SIGTERM

    def training() -> None:
        notice_stop(number)
        time.sleep(0.7)  # whoever waits has looked by then
        assert requeued(slurm) == 0
        signal.raise_signal(number)

    assert not run_until_stopped(slurm, tmp_path, training, seconds=60).released
    assert requeued(slurm) == 1


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("signalled", "expected"), [(120, 105), (30, 15), (10, 5)])
def test_before_the_end_there_is_time_to_be_queued_again(signalled: float, expected: float) -> None:
    assert seconds_to_save(signalled) == expected


def test_slurm_kills_after_its_default_of_half_a_minute() -> None:
    """Source: slurm.conf(5), KillWait: "The default value is 30 seconds"."""
    assert job._KILL_WAIT == 30
