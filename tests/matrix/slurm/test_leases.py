"""Leases of jobs where no Slurm answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from en_bench.matrix.lease import Leases
from en_bench.matrix.processes import this_machine
from en_bench.matrix.results import Results
from en_bench.matrix.slurm.leases import SlurmJudge, leases_of, note_submitted, submitting_holder
from tests.matrix.slurm.programs import CELL, answer


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
