"""Cells as jobs of a real Slurm."""

from __future__ import annotations

import pytest

from tests.slurm.cluster import LARGEST_ARRAY, until
from tests.slurm.conftest import EXPERIMENTS, numbers

pytestmark = pytest.mark.slow


def test_an_array_of_cells_of_which_one_fails(make_matrix, cluster):
    norms = {
        "BN": str(EXPERIMENTS / "norm" / "bn.yaml"),
        "EN": str(EXPERIMENTS / "norm" / "en.yaml"),
        "Broken": {"model": {"norm": "NoSuchNorm"}},
    }
    matrix = make_matrix(norms)
    told = matrix.submit()
    assert "tiny: 3 cells, 0 of them done" in told and ": 3 cells (1 node x 1 task)" in told
    assert len(cluster.jobs()) == 3
    told = matrix.submit()  # the second queues nothing
    assert "3 cells left to Slurm job " in told and ": 3 cells (1 node" not in told
    assert len(cluster.jobs()) == 3
    told = matrix("run", "--launcher", "slurm", "--wait", expected=1)
    records = matrix.records()
    assert {norm: record.status for norm, record in records.items()} == {"BN": "done", "EN": "done", "Broken": "failed"}
    assert "NoSuchNorm" in str(records["Broken"].reason) and "FAILED" in told
    assert all(record.generation == 2 for record in records.values())  # 1 was the submission's
    assert "done 2, missing 0, failed 1" in matrix("status")
    until(lambda: not cluster.ask("squeue", "-h"), 20, "the end of all jobs")
    assert {job["JobState"] for job in cluster.jobs().values()} == {"COMPLETED", "FAILED"}
    # Another process finds the same numbers, and the failed cell alone runs again.
    local = make_matrix(norms, name="local")
    local("run", "--only", "BN/*")
    assert numbers(local.records()["BN"]) == numbers(records["BN"])
    assert ": 1 cell (1 node" in matrix.submit()


def test_a_job_that_ended_well_and_left_nothing_is_found_and_runs_again(make_matrix, cluster):
    """As a job does that a preemption with Slurm's default signals has ended."""
    matrix = make_matrix(slurm={"setup": ["[ -e go ] || exit 0"]})
    matrix.submit()
    until(lambda: not cluster.ask("squeue", "-h"), 30, matrix.logs)
    (job,) = cluster.jobs().values()
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0")
    told = matrix("status")
    assert "lost  BN/a/0  Slurm job" in told and "done 0, missing 1, failed 0" in told
    (matrix.folder / "go").touch()
    told = matrix("run", "--launcher", "slurm", "--wait")
    assert "ended without a record: submitted again" in told
    assert matrix.records()["BN"].generation == 3  # 1 was of the first submission, whose job took none
    assert "lost" not in matrix("status")


def test_what_jobs_ask_for_and_how_many_make_an_array(make_matrix, cluster):
    base = {"trainer": {"devices": 2, "num_nodes": 2, "strategy": "ddp"}}
    matrix = make_matrix(base=base, seeds=list(range(LARGEST_ARRAY + 1)), slurm={"cells": {"*/0": {"time": "3-0"}}})
    told = matrix.submit(*options("partition=both", "gpus_per_node=2", "at_once=3", "parameters={hold: true}"))
    shape = "(2 nodes x 2 tasks, 2 GPUs per node, partition both"
    assert f": 1 cell {shape}, 4320 minutes)" in told and f": {LARGEST_ARRAY} cells {shape})" in told
    jobs = cluster.jobs()
    assert len(jobs) == LARGEST_ARRAY + 1
    for job in jobs.values():
        assert (job["NumNodes"], job["NumTasks"], job["TresPerNode"]) == ("2-2", "4", "gres:gpu:2")
        assert job["Requeue"] == "1"
    assert sorted(job["ArrayTaskThrottle"] for job in jobs.values()) == ["1", *["3"] * LARGEST_ARRAY]
    matrix = make_matrix(base=base, seeds=list(range(LARGEST_ARRAY + 1)), name="split")
    told = matrix.submit(*options("partition=both", "parameters={hold: true}"))
    assert f": {LARGEST_ARRAY} cells (2" in told and ": 1 cell (2" in told
    assert len(cluster.jobs()) == 2 * (LARGEST_ARRAY + 1)
    assert f"{LARGEST_ARRAY} cells left to Slurm job" in matrix.submit() and len(cluster.jobs()) == 2 * (
        LARGEST_ARRAY + 1
    )


def options(*settings):
    return [word for setting in settings for word in ("--slurm", setting)]
