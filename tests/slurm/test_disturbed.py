"""What may happen to jobs, to the controller and to those who submit: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta

import pytest

from tests.slurm.cluster import until
from tests.slurm.conftest import EPOCHS, LONG, lines, metrics, numbers

pytestmark = pytest.mark.slow


def test_preempted_it_saves_its_step_and_ends_like_one_that_was_left_alone(make_matrix, cluster, undisturbed):
    matrix = make_matrix(base={"trainer": LONG})
    matrix.submit()
    (number,) = cluster.jobs()
    until(lambda: lines(matrix) > 3, 150, matrix.logs)
    cluster.preempt()
    until(lambda: cluster.jobs()[number]["Restarts"] == "1", 60, matrix.logs)
    stopped_after = lines(matrix)
    assert not matrix.records()
    cluster.start_now(number)
    until(matrix.records, 150, matrix.logs)
    record = matrix.records()["BN"]
    assert record.generation == 3  # of the submission, of the job, and of the job again
    log = (matrix.results.run(record.id) / "log.txt").read_text()
    assert log.count("going on from") == 1 and "stopping after this step" in matrix.logs()
    assert numbers(record) == undisturbed(trainer=EPOCHS)
    written = [(line["step"], "val/n" in line) for line in map(json.loads, metrics(matrix))]
    assert 3 < stopped_after < len(written) == len(set(written))  # each step was trained, and written, once


def test_cancelled_it_saves_its_step_and_stays_cancelled(make_matrix, cluster):
    """Slurm would queue it again if it asked for that."""
    matrix = make_matrix(base={"trainer": LONG})
    matrix.submit()
    (number,) = cluster.jobs()
    until(lambda: lines(matrix) > 3, 150, matrix.logs)
    cluster.ask("scancel", number)
    until(lambda: not cluster.ask("squeue", "-h"), 60, matrix.logs)
    job = cluster.jobs()[number]
    assert (job["JobState"], job["Restarts"]) == ("CANCELLED", "0")
    assert f"job {number}: cancelled" in matrix.logs() and "stopping after this step" in matrix.logs()
    told = matrix("status")
    assert "lost" not in told and "done 0, missing 1, failed 0" in told
    assert ": 1 cell (1 node" in matrix.submit("--slurm", "parameters={hold: true}")


def test_out_of_time_with_a_step_that_does_not_end_it_is_queued_again_from_its_checkpoint(
    make_matrix, cluster, undisturbed, tmp_path
):
    hangs = {"class_path": "tests.slurm.slowly.HangsOnce", "init_args": {"epoch": 4, "mark": str(tmp_path / "hung")}}
    trainer = {**LONG, "callbacks": [*LONG["callbacks"], hangs]}
    matrix = make_matrix(base={"trainer": trainer})
    matrix.submit("--slurm", "time=10", "--slurm", "signal_seconds=16")
    (number,) = cluster.jobs()
    until((tmp_path / "hung").exists, 150, matrix.logs)
    # Slurm looks every half a minute whether a signal is due before it looks again; then 8 s are left to the step.
    end = datetime.now() + timedelta(seconds=16 + 30)
    cluster.ask("scontrol", "update", f"jobid={number}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")
    until(lambda: cluster.jobs()[number]["Restarts"] == "1", 90, matrix.logs)
    assert "the step has not ended in time" in matrix.logs() and not matrix.records()
    cluster.start_now(number)
    until(matrix.records, 150, matrix.logs)
    log = (matrix.results.run(matrix.records()["BN"].id) / "log.txt").read_text()
    assert log.count("going on from") == 1
    assert numbers(matrix.records()["BN"]) == undisturbed(trainer=EPOCHS)


def test_without_a_controller_nothing_is_doubled_and_jobs_go_on(make_matrix, cluster):
    matrix = make_matrix(base={"trainer": LONG})
    matrix.submit()
    until(lambda: lines(matrix) > 3, 150, matrix.logs)
    cluster.kill("slurmctld")
    try:
        told = matrix("run", "--launcher", "slurm", expected=1)
        assert told.count("en-bench: error:") == 1 and "nothing was submitted; jobs that run go on" in told
        assert "left to Slurm job" in matrix("run")  # nor does a local runner take the cell
        told = matrix("status")
        assert "queued  BN/a/0  Slurm job" in told and "is told as it was submitted" in told
        until(matrix.records, 150, matrix.logs)
    finally:
        cluster.start_controller()
    assert "1 cell, 1 of them done" in matrix.submit()
    assert matrix.records()["BN"].generation == 2


SBATCH = """#!/bin/sh
{before}
{sbatch} "$@"
{after}
"""


def test_whoever_submits_may_be_killed_before_and_after(make_matrix, cluster):
    matrix = make_matrix()
    programs = matrix.folder / "programs"
    programs.mkdir()
    for when in ("before", "after"):
        kill = {"before": "", "after": "", when: "kill -9 $PPID; sleep 1; exit 1"}
        (programs / "sbatch").write_text(SBATCH.format(sbatch=shutil.which("sbatch"), **kill))
        (programs / "sbatch").chmod(0o755)
        path = f"{programs}:{matrix.environment['PATH']}"
        matrix("run", "--launcher", "slurm", "--slurm", "parameters={begin: now+600}", expected=-9, PATH=path)
        assert len(cluster.jobs()) == (when == "after")
    assert "1 cell left to the Slurm job en_bench-tiny-" in matrix.submit()
    (number,) = cluster.jobs()
    assert f"queued  BN/a/0  Slurm job {number} pending (BeginTime)" in matrix("status")
    cluster.start_now(number)
    until(matrix.records, 150, matrix.logs)
    assert matrix.records()["BN"].generation == 3  # the lease of the first, who was killed before, counts


def test_a_job_whose_cell_somebody_else_has_taken_does_nothing(make_matrix, cluster):
    matrix = make_matrix()
    matrix.submit("--slurm", "parameters={begin: now+600}")
    (number,) = cluster.jobs()
    (lease,) = matrix.results.leases.glob("*/1.json")
    lease.unlink()
    matrix("run")
    cluster.start_now(number)
    until(lambda: not cluster.ask("squeue", "-h"), 60, matrix.logs)
    assert cluster.jobs()[number]["JobState"] == "COMPLETED"
    assert "was given back or taken over: nothing to do" in matrix.logs()
    assert matrix.records()["BN"].generation == 1


def test_what_sbatch_refuses_is_told_and_leaves_nothing_behind(make_matrix, cluster):
    matrix = make_matrix()
    told = matrix("run", "--launcher", "slurm", "--slurm", "partition=nowhere", expected=1)
    assert (
        told.count("sbatch: error:") == 2
        and "sbatch refused the jobs: sbatch: error: invalid partition specified: nowhere" in told
    )
    told = matrix("run", "--launcher", "slurm", "--slurm", "parameters={no_such: 1}", expected=1)
    assert told.endswith("error: sbatch refused the jobs: sbatch: unrecognized option '--no-such=1'\n")
    assert not list((matrix.results.folder / "slurm").iterdir())
    assert "1 cell (1 node" in matrix.submit("--slurm", "parameters={hold: true}")
    told = matrix("run", "--launcher", "slurm", "--dry-run", "--slurm", "time=1:00:00")
    assert "#SBATCH --signal=B:USR1@120" in told and "#SBATCH --time=60" in told and "#SBATCH --requeue" in told
    assert len(cluster.jobs()) == 1
