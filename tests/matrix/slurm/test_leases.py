"""Leases of jobs where no Slurm answers, and what a job refuses."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from en_bench.errors import InputError
from en_bench.matrix.lease import Leases
from en_bench.matrix.processes import this_machine
from en_bench.matrix.results import Results
from en_bench.matrix.slurm.job import read_task, run_job, seconds_to_save
from en_bench.matrix.slurm.leases import SlurmJudge, leases_of, note_submitted, submitting_holder
from en_bench.matrix.slurm.queue import JobNow, job_now, node_address
from en_bench.matrix.slurm.submit import SUBMISSION
from en_bench.stop import STOPPED

CELL = "0123456789abcdef"
TWO_CELLS = {
    "format": "en_bench.submission",
    "version": 1,
    "tasks": 4,
    "nodes": 2,
    "cpus_per_task": 3,
    "signal_seconds": 60,
    "cells": [{"cell": CELL, "token": "a"}, {"cell": "f" * 16, "token": "b"}],
}
CLUSTER = """#!/bin/sh
case "$(basename "$0")" in
  scontrol) echo "ClusterName             = here"; echo "MaxArraySize            = 11" ;;
  squeue) {squeue} ;;
esac
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs in the place of Slurm's, which answer what a test has written into them."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    answer(programs, "true")
    return programs


def answer(programs: Path, squeue: str) -> None:
    for name in ("scontrol", "squeue"):
        (programs / name).write_text(CLUSTER.format(squeue=squeue))
        (programs / name).chmod(0o755)


def test_between_the_lease_and_sbatch_the_submitting_process_holds_it(slurm: Path, tmp_path: Path) -> None:
    results = Results(tmp_path)
    lease = leases_of(results).take(CELL, holder=submitting_holder("job", 0, "here"))
    assert lease is not None
    assert leases_of(results).holder(CELL) is not None  # this process lives
    dead = {**lease.holder, "process": [2**22 - 1, "1"], "machine": this_machine()}
    lease.holder = dead
    lease.rewrite()
    assert leases_of(results).holder(CELL) is None  # and Slurm knows no such job
    answer(slurm, "echo 'job|7|0|PENDING|Priority||N/A'")
    assert leases_of(results).holder(CELL) is not None  # it was killed after sbatch
    answer(slurm, "echo 'job|7|1|PENDING|Priority||N/A'; echo 'of somebody | else|8|0|RUNNING'")
    assert leases_of(results).holder(CELL) is None  # another task
    lease.holder = {**dead, "cluster": "elsewhere"}
    lease.rewrite()
    assert leases_of(results).holder(CELL) is not None  # what another cluster does nobody here can tell
    lease.holder = dead
    lease.rewrite()
    answer(slurm, "echo 'Unable to contact slurm controller' >&2; exit 1")
    judge = SlurmJudge()
    assert leases_of(results, judge).holder(CELL) is not None
    assert judge.unreachable == "squeue: Unable to contact slurm controller"


def test_a_job_takes_its_lease_over_when_it_starts_and_when_it_comes_back(slurm: Path, tmp_path: Path) -> None:
    results = Results(tmp_path)
    lease = leases_of(results).take(CELL, holder=submitting_holder("job", 0, "here"))
    assert lease is not None
    note_submitted(lease, "7")
    answer(slurm, "echo 'job|7|0|PENDING|Priority||N/A'")
    found = leases_of(results).holder(CELL)
    assert found is not None and found.told() == "Slurm job 7_0" and "process" not in found.holder
    assert Leases(results.leases).adopt(CELL, "another token") is None
    for number in (2, 3):
        adopted = leases_of(results).adopt(CELL, lease.token)
        assert adopted is not None and (adopted.number, adopted.first) == (number, 1)
        adopted.kept = True
        with pytest.raises(KeyboardInterrupt), adopted:
            raise KeyboardInterrupt
    answer(slurm, "true")
    adopted = leases_of(results).adopt(CELL, lease.token)
    assert adopted is not None
    with adopted:
        assert leases_of(results).holder(CELL) is not None
    assert leases_of(results).adopt(CELL, lease.token) is None


def test_a_job_that_starts_before_its_number_is_noted_keeps_its_lease(slurm: Path, tmp_path: Path) -> None:
    leases = leases_of(Results(tmp_path))
    lease = leases.take(CELL, holder=submitting_holder("job", 0, "here"))
    assert lease is not None
    adopted = leases.adopt(CELL, lease.token)
    assert adopted is not None
    note_submitted(lease, "7")
    adopted.require()
    found = leases.holder(CELL)
    assert found is not None and "process" in found.holder


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


SCONTROL = """#!/bin/sh
echo "$*" >> {folder}/asked
case "$*" in
  *show\\ job*) echo 'JobId=8 ArrayJobId=7 ArrayTaskId=1 JobName=en_bench-a {job}' ;;
  *show\\ node*) echo 'NodeName=n1 Arch=x86_64 NodeAddr=10.0.0.7 NodeHostName=elsewhere' ;;
  requeue*) {requeue} ;;
esac
"""
RUNNING = "JobState=RUNNING Reason=None Restarts=0 StartTime=2026-01-02T00:00:00 PreemptTime=None"
ENDING = "JobState=COMPLETING Reason={why} Restarts={restarts} StartTime=2026-01-02T00:00:00 PreemptTime={preempted}"


def scontrol(programs: Path, job: str, requeue: str = "true") -> None:
    (programs / "scontrol").write_text(SCONTROL.format(folder=programs, job=job, requeue=requeue))


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
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, asked_again: int, released: bool
) -> None:
    """Stopped by a signal that arrives as soon as it can, long before there is a training."""
    monkeypatch.setenv("MASTER_ADDR", "")  # so that it is as before in the end
    monkeypatch.delenv("MASTER_ADDR")
    results = Results(tmp_path / "results")
    lease = leases_of(results).take(CELL, holder=submitting_holder("job", 0, "here"))
    assert lease is not None
    cells = [{"cell": CELL, "token": lease.token}]
    (tmp_path / SUBMISSION).write_text(json.dumps({**TWO_CELLS, "cells": cells}))
    scontrol(slurm, told)

    @dataclass
    class Cells:
        results: Results
        starter: tuple[str, ...] = ()

        @property
        def spec(self) -> None:
            signal.raise_signal(signal.SIGUSR1)

    environment = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", "SLURMD_NODENAME": "n1"}
    assert run_job(partial(Cells, results), tmp_path, environment) == STOPPED  # type: ignore[arg-type]
    assert os.environ["MASTER_ADDR"] == "10.0.0.7"
    assert (slurm / "asked").read_text().count("requeue 7_0") == asked_again
    found = leases_of(results).find(CELL)
    assert found is not None and found.released == released


@pytest.mark.parametrize(("signalled", "expected"), [(120, 105), (30, 15), (10, 5)])
def test_before_the_end_there_is_time_to_be_queued_again(signalled: float, expected: float) -> None:
    assert seconds_to_save(signalled) == expected


def queued(results: Results, cell: str, name: str, array: str) -> None:
    """The lease of a job that was submitted."""
    lease = leases_of(results).take(cell, holder=submitting_holder(name, 0, "here"))
    assert lease is not None
    note_submitted(lease, array)


def asked(programs: Path, squeue: str) -> Callable[[], int]:
    """Has squeue answer so from now on; how often it was asked since."""
    (programs / "asked").unlink(missing_ok=True)
    answer(programs, f"echo >> {programs}/asked; {squeue}")
    return lambda: (programs / "asked").read_text().count("\n") if (programs / "asked").exists() else 0


def until_free(runner: Leases, cell: str) -> None:
    """The more time an answer takes, the longer it holds."""
    deadline = time.monotonic() + 60
    while runner.holder(cell) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_judge_that_lives_long_hears_of_jobs_that_come_and_go(slurm: Path, tmp_path: Path) -> None:
    results, judge, first, second = Results(tmp_path), SlurmJudge(seconds=1000.0), "a" * 16, "b" * 16
    one, two = "echo 'one|7|0|PENDING|Priority||N/A'", "echo 'two|8|0|PENDING|Priority||N/A'"
    runner = leases_of(results, judge)
    queued(results, first, "one", "7")
    asked(slurm, one)
    assert runner.holder(first) is not None
    count = asked(slurm, f"{one}; {two}")
    queued(results, second, "two", "8")
    assert runner.take(second) is None  # which the judge has not heard of yet
    assert runner.holder(second) is not None and runner.holder(first) is not None and count() == 1
    count = asked(slurm, two)
    assert runner.holder(first) is not None and count() == 0  # what was heard holds for a while
    runner = leases_of(results, SlurmJudge(seconds=0.0))
    asked(slurm, f"{one}; {two}")
    assert runner.holder(first) is not None
    asked(slurm, two)
    until_free(runner, first)
    assert runner.holder(second) is not None


def test_what_was_lost_long_ago_is_asked_for_once(slurm: Path, tmp_path: Path) -> None:
    """However many leases there are: each job had its chance to be submitted."""
    results = Results(tmp_path)
    count = asked(slurm, "true")
    for number in range(5):
        queued(results, f"{number:016d}", f"job {number}", str(number))
        os.utime(results.leases / f"{number:016d}" / "1.json", (1e9, 1e9))
    runner = leases_of(results)
    assert all(runner.holder(f"{number:016d}") is None for number in range(5)) and count() == 1


def test_a_controller_that_did_not_answer_is_asked_again(slurm: Path, tmp_path: Path) -> None:
    results, judge = Results(tmp_path), SlurmJudge(seconds=0.0)
    runner = leases_of(results, judge)
    queued(results, CELL, "one", "7")
    asked(slurm, "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert runner.holder(CELL) is not None and judge.unreachable is not None
    asked(slurm, "true")
    until_free(runner, CELL)
    assert judge.unreachable is None
