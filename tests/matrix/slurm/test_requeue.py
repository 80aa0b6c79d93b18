"""A job that is queued again and again."""

from __future__ import annotations

import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from en_bench.files import write_json
from en_bench.matrix.plan import plan
from en_bench.matrix.results import Results
from en_bench.matrix.slurm.job import run_job
from en_bench.matrix.slurm.leases import leases_of, note_submitted, submitting_holder
from en_bench.matrix.slurm.submit import SUBMISSION
from en_bench.matrix.spec import load_spec
from en_bench.resume.reached import Reached, add_reached
from en_bench.stop import STOPPED
from tests.matrix import fake_execute, running

RUNNING = "JobState=RUNNING Reason=None Restarts={restarts} StartTime=2026-01-02T00:00:00 PreemptTime=None"
SCONTROL = """#!/bin/sh
echo "$*" >> {folder}/asked
case "$*" in
  *show\\ config*) echo "ClusterName = here" ;;
  *show\\ job*) echo 'JobId=7 {job}' ;;
esac
"""


class Job:
    """A job of the first cell of a matrix, which a test starts as often as Slurm would."""

    def __init__(self, spec_file: Path, folder: Path) -> None:
        self.spec_file, self.folder = spec_file, folder
        self.results, self.starts = Results(running.RESULTS), 0
        (self.item, *_) = plan(load_spec(spec_file), {}, running.nowhere)
        lease = leases_of(self.results).take(self.item.cell.id, holder=submitting_holder("one", 0, "here"))
        assert lease is not None
        note_submitted(lease, "7")
        cells = [{"cell": self.item.cell.id, "token": lease.token}]
        shape = {"tasks": 1, "nodes": 1, "cpus_per_task": None, "signal_seconds": 60}
        write_json(
            folder / SUBMISSION, {"format": "en_bench.submission", "version": 1, "name": "one", **shape, "cells": cells}
        )

    def start(self, execute: Callable[[list[str]], None]) -> int:
        (self.folder / "scontrol").write_text(
            SCONTROL.format(folder=self.folder, job=RUNNING.format(restarts=self.starts))
        )
        (self.folder / "scontrol").chmod(0o755)
        array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": str(self.starts)}
        self.starts += 1
        return run_job(lambda: running.runner(self.spec_file, execute).cells, self.folder, array)

    def requeued(self) -> int:
        return (self.folder / "asked").read_text().count("requeue 7_0")


@pytest.fixture
def job(spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("MASTER_ADDR", "here")
    (programs / "squeue").write_text("#!/bin/sh\necho 'one|7|0|RUNNING|None|n|N/A'\n")
    (programs / "squeue").chmod(0o755)
    return Job(spec_file, programs)


def stop(argv: list[str]) -> None:
    """The signal before the end of the job's time."""
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(60)


def test_one_that_saves_nothing_is_not_queued_again_for_ever(job: Job) -> None:
    assert [job.start(stop) for _ in range(4)] == [STOPPED, STOPPED, STOPPED, 1]
    assert job.requeued() == 3
    record = job.results.find(job.item.cell.id)
    assert record is not None and record.status == "failed"
    assert str(record.reason).startswith("3 starts of its Slurm job in a row have saved nothing: give slurm.time for")
    last = leases_of(job.results).find(job.item.cell.id)
    assert last is not None and last.released  # the next run submits it, and counts anew


def test_one_that_gets_a_little_further_each_time_is(job: Job) -> None:
    steps = iter([7, 7, 7, 9, 9, 9, 11])

    def save(argv: list[str]) -> None:
        run = Path(argv[argv.index("--trainer.default_root_dir") + 1])
        (run / "checkpoints").mkdir(exist_ok=True)
        with (run / "checkpoints" / "last.ckpt").open("wb+") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("archive/data.pkl", "")
            add_reached(file, Reached(1, 9, next(steps), 99))
        stop(argv)

    assert [job.start(save) for _ in range(7)] == [STOPPED] * 7
    assert job.start(fake_execute.execute) == 0


def test_one_whose_validation_does_not_fit_in_its_time(job: Job) -> None:
    def validate(argv: list[str]) -> None:
        (fake_execute.execute if argv[0] == "fit" else stop)(argv)

    assert [job.start(validate) for _ in range(5)] == [STOPPED, STOPPED, STOPPED, STOPPED, 1]
    record = job.results.find(job.item.cell.id)
    assert record is not None and record.fit and not record.validate
