"""Cells as jobs of a real Slurm."""

from __future__ import annotations

import pytest

from tests.slurm.cluster import until
from tests.slurm.conftest import EXPERIMENTS, LONG, lines, numbers

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]  # one cluster


def test_an_array_of_cells_of_which_one_fails(make_matrix, cluster):
    norms = {
        "BN": str(EXPERIMENTS / "norm" / "bn.yaml"),
        "EN": str(EXPERIMENTS / "norm" / "en.yaml"),
        "Broken": {"model": {"norm": "NoSuchNorm"}},
    }
    matrix = make_matrix(norms)
    told = matrix.submit()
    assert "tiny: 3 cells, 0 of them done" in told and ": 3 cells (1 node x 1 tasks)" in told
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


def test_several_ranks_stop_together_and_end_as_they_would_have_locally(make_matrix, cluster):
    base = {"trainer": {"devices": 2, "strategy": "ddp", **LONG}, "data": {"batch_size": 16}}
    matrix = make_matrix(base=base)
    assert "1 node x 2 tasks" in matrix.submit("--slurm", "signal_seconds=60")
    (number,) = cluster.jobs()
    until(lambda: lines(matrix) > 3, 150, matrix.logs)
    cluster.ask("scancel", "--signal=USR1", "--batch", number)
    until(lambda: cluster.jobs()[number]["Restarts"] == "1", 60, matrix.logs)
    until(lambda: f"queued  BN/a/0  Slurm job {number} pending" in matrix("status"), 60, matrix.logs)
    assert not matrix.records()
    cluster.start_now(number)
    until(matrix.records, 150, matrix.logs)
    log = (matrix.results.run(matrix.records()["BN"].id) / "log.txt").read_text()
    # srun tells of two that end at the same time in one line.
    together = "tasks 0-1: Exited with exit code 75" in log
    assert together or all(f"task {rank}: Exited with exit code 75" in log for rank in (0, 1)), log
    assert log.count("going on from") == 1
    local = make_matrix(base=base, name="local")
    local("run")
    assert numbers(matrix.records()["BN"]) == numbers(local.records()["BN"])


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
