"""Several runners on one matrix."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from en_bench.files import write_json
from en_bench.matrix.cell_run import CellRun
from en_bench.matrix.lease import Leases
from en_bench.matrix.plan import plan_cells
from en_bench.matrix.results import Results
from en_bench.matrix.run import Runner
from en_bench.matrix.spec import load_spec
from tests.matrix import fake_execute

RESULTS = Results(Path("results/digits"))
LEASES = Leases(RESULTS.leases)


def nowhere(name: str) -> str | None:
    return None


def take_over() -> None:
    """Takes the one cell that is held, as another runner does once its holder has been silent for long."""
    (held,) = (path for path in RESULTS.leases.iterdir() if path.is_dir())
    os.utime(held / "1.json", (0, 0))
    lease = LEASES.take(held.name)
    assert lease is not None and lease.number == 2


def test_two_runners_share_a_matrix_and_run_nothing_twice(spec_file: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "FAKE_SECONDS": "0.05", "FAKE_TRACE": str(tmp_path / "trace")}
    command = [sys.executable, fake_execute.__file__, "matrix", "run", str(spec_file)]
    runners = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    told = [runner.communicate(timeout=100)[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0]
    commands = [tuple(json.loads(line)) for line in (tmp_path / "trace").read_text().splitlines()]
    assert len(commands) == len(set(commands)) == 8 * 3
    assert sum(out.count("  seed ") for out in told) == 8
    records, warnings = RESULTS.load()
    assert len(records) == 8 and not warnings and {record.generation for record in records.values()} == {1}


def test_a_cell_that_another_holds_is_left_to_it(spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = CellRun(load_spec(spec_file), fake_execute.execute, RESULTS, nowhere)
    runner = Runner(cells, LEASES)
    first = plan_cells(cells.spec)[0]
    lease = LEASES.take(first.id)
    assert lease is not None
    assert runner.run() == 0
    assert len(RESULTS.load()[0]) == 7
    assert (
        capsys.readouterr().out.splitlines()[-1] == f"{first}: left to process {os.getpid()} on {lease.holder['host']}"
    )
    lease.give_back()
    assert runner.run() == 0
    assert RESULTS.load()[0][first.id].generation == 2


def test_whoever_finds_his_lease_lost_writes_nothing(spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before: list[object] = []

    def everything() -> list[object]:
        kept = (path for path in RESULTS.folder.rglob("*") if path.is_file() and "leases" not in path.parts)
        return sorted((str(path), path.read_bytes()) for path in kept)

    def execute_and_lose(argv: list[str]) -> None:
        fake_execute.execute(argv)
        take_over()
        before.extend(everything())

    runner = Runner(CellRun(load_spec(spec_file), execute_and_lose, RESULTS, nowhere), LEASES)
    assert runner.run("BatchNorm/typeset/0") == 0
    assert "was taken over: nothing more is written" in capsys.readouterr().out
    assert everything() == before and RESULTS.load() == ({}, [])


def test_a_lost_lease_stops_a_command_at_its_next_file(spec_file: Path) -> None:
    written = Path("written.json")

    def lose_and_execute(argv: list[str]) -> None:
        take_over()
        write_json(written, {})

    runner = Runner(CellRun(load_spec(spec_file), lose_and_execute, RESULTS, nowhere), LEASES)
    assert runner.run("BatchNorm/typeset/0") == 0
    assert not written.exists() and RESULTS.load() == ({}, [])


def test_what_another_runner_recorded_meanwhile_counts(spec_file: Path, tmp_path: Path) -> None:
    """The second runner plans before the first one has ended a cell, and comes to that cell after."""
    spec = load_spec(spec_file)
    ran: list[str] = []

    def first(argv: list[str]) -> None:
        ran.append(argv[0])
        if len(ran) == 1:  # in the middle of the first cell another runner runs all the others
            assert Runner(CellRun(spec, fake_execute.execute, RESULTS, nowhere), LEASES).run() == 0
        fake_execute.execute(argv)

    # Leases of one process: the two take turns in it as two processes would.
    assert Runner(CellRun(spec, first, RESULTS, nowhere), LEASES).run() == 0
    assert ran == ["fit", "validate", "validate"]
    assert len(RESULTS.load()[0]) == 8
