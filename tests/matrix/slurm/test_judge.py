"""What a runner that lives long knows of Slurm's jobs, with programs in the place of Slurm's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from en_bench.matrix.lease import Leases
from en_bench.matrix.results import Results
from en_bench.matrix.slurm.leases import SlurmJudge, leases_of, note_submitted, submitting_holder
from tests.matrix.slurm.programs import CELL, answer


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
