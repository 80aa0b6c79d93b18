"""What `--wait` tells of cells that nobody holds any more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from en_bench.matrix.plan import PlannedCell, plan
from en_bench.matrix.results import Results
from en_bench.matrix.slurm.launcher import watch
from en_bench.matrix.slurm.leases import leases_of, note_submitted, submitting_holder
from en_bench.matrix.spec import load_spec
from tests.matrix import fake_execute, running

CELL = "BatchNorm/typeset/0"


def changed(name: str) -> str:
    """The digest of a set that has become another one."""
    return f"another {name}"


def submitted(spec_file: Path, state: str, digests: Any) -> tuple[Any, PlannedCell]:
    """The matrix with the cell planned, and its lease noted as that of a job."""
    spec, results = load_spec(spec_file), Results(running.RESULTS)
    (item,) = (item for item in plan(spec, results.load()[0], digests) if str(item.cell) == CELL)
    assert item.state.value == state
    return SimpleNamespace(spec=spec, results=results), item


def queue(item: PlannedCell, results: Results) -> Any:
    leases = leases_of(results)
    after = results.generation(item.cell.id)
    lease = leases.take(item.cell.id, after=after, holder=submitting_holder("one", 0, "here"))
    assert lease is not None
    note_submitted(lease, "7")
    return lease


@pytest.mark.parametrize("state", ["stale", "failed"])
def test_the_record_of_before_is_not_what_became_of_a_cancelled_job(
    spec_file: Path, state: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if state == "failed":
        monkeypatch.setenv("FAKE_FAIL", "BatchNorm")
    running.run(spec_file, only=CELL)
    matrix, item = submitted(spec_file, state, changed if state == "stale" else running.nowhere)
    queue(item, matrix.results).give_back()  # as `scancel` has it
    capsys.readouterr()
    assert watch(matrix, [item]) == 1
    assert capsys.readouterr().out == f"{CELL}: Slurm job 7_0 ended without a record\n"


def test_the_record_of_the_job_is(
    spec_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "BatchNorm")
    running.run(spec_file, only=CELL)
    matrix, item = submitted(spec_file, "failed", running.nowhere)
    monkeypatch.delenv("FAKE_FAIL")
    with queue(item, matrix.results) as lease:
        running.runner(spec_file, fake_execute.execute).cells.run(item, lease.number)
    capsys.readouterr()
    assert watch(matrix, [item]) == 0
    out = capsys.readouterr().out
    assert out.startswith("[1/1] BatchNorm") and "FAILED" not in out
