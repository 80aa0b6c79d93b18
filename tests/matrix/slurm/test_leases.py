"""Leases of jobs where no Slurm answers, and what a job refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from en_bench.errors import InputError
from en_bench.matrix.lease import Leases
from en_bench.matrix.processes import this_machine
from en_bench.matrix.records import Results
from en_bench.matrix.slurm.job import read_task
from en_bench.matrix.slurm.leases import SlurmJudge, leases_of, note_submitted, submitting_holder
from en_bench.matrix.slurm.submit import SUBMISSION

CELL = "0123456789abcdef"
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
    submission = {
        "format": "en_bench.submission",
        "version": 1,
        "tasks": 4,
        "nodes": 2,
        "cpus_per_task": 3,
        "signal_seconds": 60,
        "cells": [{"cell": CELL, "token": "a"}, {"cell": "f" * 16, "token": "b"}],
    }
    (tmp_path / SUBMISSION).write_text(json.dumps(submission))
    found = read_task(tmp_path, task)
    assert (found.number, found.cell, found.token) == ("7_1", "f" * 16, "b")
    shape = ("--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=3")
    assert found.starter[:5] == ("srun", *shape)
    with pytest.raises(InputError, match="what task 2 is to do"):
        read_task(tmp_path, {**task, "SLURM_ARRAY_TASK_ID": "2"})
