"""Several slots: processes that are given cells, and that die."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from en_bench.errors import InputError
from en_bench.matrix.cell_run import CellRun
from en_bench.matrix.lease import Leases
from en_bench.matrix.local import crew
from en_bench.matrix.local.devices import make_slots, slot_environment
from en_bench.matrix.local.launcher import LocalLauncher
from en_bench.matrix.local.stopping import AGAIN, SAVED, UNSAVED
from en_bench.matrix.plan import plan, plan_cells
from en_bench.matrix.progress import Progress, write_progress
from en_bench.matrix.results import Results
from en_bench.matrix.run import INTERRUPTED, Runner
from en_bench.matrix.spec import load_spec
from en_bench.matrix.verbs import add_verbs
from en_bench.stop import STOPPED
from tests.conftest import REPO
from tests.matrix import fake_execute

RESULTS = Results(Path("results/digits"))
FAKE_WORKER = Path(fake_execute.__file__).with_name("fake_worker.py")


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "PROGRAM", (sys.executable, fake_execute.__file__))
    monkeypatch.setenv("PYTHONPATH", str(REPO), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("FAKE_PLACES", str(tmp_path / "places"))


def launch(spec_file: Path, *options: str) -> int:
    parser = argparse.ArgumentParser()
    add_verbs(parser.add_subparsers())
    args = parser.parse_args(["matrix", "run", str(spec_file), *options])
    code = args.handler(args, fake_execute.execute)
    assert isinstance(code, int)
    return code


def test_slots_share_the_cells(
    spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.05")
    first = plan_cells(load_spec(spec_file))[0]
    RESULTS.run(first.id).mkdir(parents=True)
    (RESULTS.run(first.id) / "fit.json").write_text("{}")
    assert launch(spec_file, "--slots", "2", "--threads", "3") == 0
    commands = [tuple(json.loads(line)) for line in (tmp_path / "trace").read_text().splitlines()]
    assert len(commands) == len(set(commands)) == 8 * 3
    places = Counter((tmp_path / "places").read_text().splitlines())
    assert len(places) == 2 and {place.split()[1] for place in places} == {"3"}
    assert str(os.getpid()) not in {place.split()[0] for place in places}
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "digits: 8 cells, 0 of them done"
    # What a process prints comes whole.
    moved = f"{first.id} held a training that is not this cell's or no longer valid: moved to {first.id}.set-aside-1"
    assert out.count(f"{first}: {moved}") == 1
    lines = [line for line in out if line.startswith("[")]
    assert [line[:6] for line in lines] == [f"[{number}/8] " for number in range(1, 9)]
    assert re.fullmatch(
        r"\[8/8\] \w+ +\w+ +seed \d   handwritten [\d.]+  typeset [\d.]+   [\d.]+ s   time left 0\.0 s", lines[7]
    )
    assert out[-1] == "page: results/digits/report.html"
    assert launch(spec_file, "--slots", "2") == 0
    assert "8 cells, 8 of them done" in capsys.readouterr().out
    assert (tmp_path / "trace").read_text().count("\n") == 24


def test_a_failing_cell_and_a_pattern(
    spec_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "ExemplarNorm")
    assert launch(spec_file, "--slots", "3", "--only", "*/typeset/0") == 1
    out = capsys.readouterr().out
    assert out.startswith("digits: 2 cells, 0 of them done\n")
    assert "FAILED: RuntimeError: loss is not finite <b>at all</b> (log: results/digits/runs/" in out
    assert sorted(record.status for record in RESULTS.load()[0].values()) == ["done", "failed"]


@pytest.fixture
def exemplar_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What becomes of the processes that run its cells: they `die` or `stop`, each time or `once`."""

    def ends(how: str) -> None:
        monkeypatch.setenv("FAKE_FAIL", "ExemplarNorm")
        monkeypatch.setenv("FAKE_HOW", how)
        monkeypatch.setenv("FAKE_DEATH", str(tmp_path / "death"))

    return ends


@pytest.mark.slow
def test_a_process_that_dies_loses_its_cell_only_and_it_is_taken_up_again(
    spec_file: Path, exemplar_norm: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    exemplar_norm("die once")
    assert launch(spec_file, "--slots", "2", "--only", "*/typeset/*") == 0
    out = capsys.readouterr().out
    said = re.findall(
        r"^(ExemplarNorm/typeset/\d): its process was killed by SIGKILL \(out of memory\?\): it is taken up again$",
        out,
        re.MULTILINE,
    )
    assert len(said) == 1
    records = RESULTS.load()[0]
    assert {record.status for record in records.values()} == {"done"}
    assert sorted(record.generation for record in records.values()) == [1, 1, 1, 2]


@pytest.mark.slow
def test_a_process_that_somebody_stops_has_not_died(
    spec_file: Path, exemplar_norm: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    exemplar_norm("stop once")
    assert launch(spec_file, "--slots", "2", "--only", "*/typeset/0") == 0
    out = capsys.readouterr().out
    assert (
        out.count("ExemplarNorm/typeset/0: its process was asked to stop: it is taken up again from what was saved")
        == 1
    )
    assert {record.status for record in RESULTS.load()[0].values()} == {"done"}


@pytest.mark.slow
def test_a_cell_that_processes_die_of_again_and_again_fails(
    spec_file: Path,
    exemplar_norm: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exemplar_norm("die")
    assert launch(spec_file, "--slots", "2", "--only", "*/typeset/0") == 1
    out = capsys.readouterr().out
    assert out.count("it is taken up again") == 2
    records = {record.norm: record for record in RESULTS.load()[0].values()}
    assert records["BatchNorm"].status == "done"
    assert records["ExemplarNorm"].reason == (
        "3 processes that ran it have died: the last one was killed by SIGKILL (out of memory?)"
    )
    assert not (RESULTS.run(records["ExemplarNorm"].id) / "started.json").exists()
    assert f"FAILED: {records['ExemplarNorm'].reason}" in out
    monkeypatch.delenv("FAKE_FAIL")
    assert launch(spec_file, "--slots", "2", "--only", "*/typeset/0") == 0


def test_processes_that_cannot_start_end_the_run(spec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "PROGRAM", (sys.executable, "-c", "import sys; sys.exit('no such library')"))
    with pytest.raises(
        InputError, match=r"^processes for cells cannot start: the last one ended with exit code 1: no such library$"
    ):
        launch(spec_file, "--slots", "2")
    assert not RESULTS.records.exists()


@pytest.mark.slow
def test_a_cell_that_another_runner_holds_is_left_to_it(spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = plan_cells(load_spec(spec_file))[0]
    lease = Leases(RESULTS.leases).take(first.id)
    assert lease is not None
    assert launch(spec_file, "--slots", "2") == 0
    out = capsys.readouterr().out
    assert f"{first}: left to process {os.getpid()} on {lease.holder['host']}" in out
    assert len(RESULTS.load()[0]) == 7


def start(spec_file: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, fake_execute.__file__, "matrix", "run", str(spec_file), "--slots", "2", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "FAKE_SECONDS": "60", **environment},
    )


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def two_work(places: Path) -> bool:
    return places.exists() and places.read_text().count("\n") == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_one_signal_stops_all_slots(spec_file: Path, tmp_path: Path, number: int) -> None:
    run = start(spec_file)
    until(lambda: two_work(tmp_path / "places"))
    processes = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    out = run.communicate(timeout=60)[0]
    assert run.returncode == (INTERRUPTED if number == signal.SIGINT else STOPPED)
    first, second = plan_cells(load_spec(spec_file))[:2]
    awaited = (
        f"stopping, waits for {first}, {second}: a training ends its step, or its validation, and saves it; {AGAIN}"
    )
    assert out.splitlines()[1:] == [awaited, SAVED]
    assert not psutil.wait_procs(processes, timeout=20)[1]
    assert not list(RESULTS.records.glob("*"))
    leases = [Leases(RESULTS.leases).find(cell.id) for cell in plan_cells(load_spec(spec_file))]
    assert [lease is not None and lease.released for lease in leases] == [True, True] + [False] * 6


@pytest.mark.slow
def test_the_second_interrupt_ends_what_does_not_listen(spec_file: Path, tmp_path: Path) -> None:
    run = start(spec_file, FAKE_DEAF="yes")
    until(lambda: two_work(tmp_path / "places"))
    second = plan_cells(load_spec(spec_file))[1]
    process = Progress("fit", "fit", 3, 10, 7, 20, 99.6, {"top1": 0.125}, 65.0, "host", 1, time.time() + 60)
    write_progress(RESULTS.run(second.id), process)  # the other has begun nothing
    processes = psutil.Process(run.pid).children(recursive=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        run.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(0.7)
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=20)[0].splitlines()[2:] == [
        f"{second} ended unsaved: there is no checkpoint yet, its training begins anew",
        UNSAVED,
    ]
    assert run.returncode == INTERRUPTED
    assert not psutil.wait_procs(processes, timeout=20)[1]


@pytest.mark.slow
def test_a_killed_launcher_takes_its_processes_with_it(spec_file: Path, tmp_path: Path) -> None:
    run = start(spec_file, FAKE_DEAF="yes")
    until(lambda: two_work(tmp_path / "places"))
    processes = psutil.Process(run.pid).children(recursive=True)
    assert len(processes) == 2
    run.kill()
    assert not psutil.wait_procs(processes, timeout=20)[1]
    run.communicate(timeout=20)


@pytest.mark.slow
def test_status_tells_what_runs(spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def status() -> list[str]:
        parser = argparse.ArgumentParser()
        add_verbs(parser.add_subparsers())
        args = parser.parse_args(["matrix", "status", str(spec_file)])
        assert args.handler(args, fake_execute.execute) == 0
        return capsys.readouterr().out.splitlines()

    run = start(spec_file)
    until(lambda: two_work(tmp_path / "places"))
    first, second = plan_cells(load_spec(spec_file))[:2]
    process = Progress("fit", "fit", 3, 10, 7, 20, 99.6, {"top1": 0.125}, 65.0, "host", 1, time.time())
    write_progress(RESULTS.run(second.id), process)
    lines = status()
    assert re.fullmatch(rf"running  {first}  starts  \(process \d+ on .+\)", lines[0])
    assert lines[1].startswith(
        f"running  {second}  epoch 3/10, 100 images/s, top1 12.5, time left 1 min 5 s  (process "
    )
    assert len(lines) == 4 and lines[-1] == "done 0, missing 8, failed 0"
    run.kill()
    run.communicate(timeout=20)
    until(lambda: len(status()) == 2)


@pytest.mark.parametrize("wrong", [("--slots", "0"), ("--slots", "two"), ("--threads", "-1")])
def test_numbers_that_are_none(spec_file: Path, wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch(spec_file, *wrong)
    assert "is no whole number of 1 or more" in capsys.readouterr().err


def test_cells_of_several_devices_get_so_many_gpus(
    spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spec_file.parent / "norm/bn.yaml").write_text("trainer: {devices: 2}\n")
    (spec_file.parent / "norm/en.yaml").write_text("trainer: {devices: 1}\n")
    monkeypatch.setattr(crew, "PROGRAM", (sys.executable, str(FAKE_WORKER)))
    spec, gpus = load_spec(spec_file), ("0", "1", "2")
    planned = plan(spec, {}, lambda name: None)
    runner = Runner(CellRun(spec, fake_execute.execute, RESULTS, lambda name: None), Leases(RESULTS.leases))
    slots = make_slots(None, gpus)
    assert LocalLauncher(runner, slots, [], lambda own: slot_environment(own, gpus, None)).run(planned) == 0
    given = [json.loads(line) for line in (tmp_path / "places").read_text().splitlines()]
    norms = {item.cell.id: item.cell.norm for item in planned}
    # Each twice, since the processes leave them to nobody.
    assert sorted(norms[cell] for cell, *_ in given) == ["BatchNorm"] * 8 + ["ExemplarNorm"] * 8
    for cell, _, visible, began, ended in given:
        assert len(visible.split(",")) == (2 if norms[cell] == "BatchNorm" else 1)
        for other, _, others, since, until in given:
            if other != cell and set(others.split(",")) & set(visible.split(",")):
                assert until <= began or ended <= since, "one GPU, two cells"
    # What two leave free is used meanwhile, and later all three; processes are kept where they can be.
    assert {visible for cell, _, visible, *_ in given if norms[cell] == "ExemplarNorm"} >= {"2"}
    last: dict[str, tuple[int, str]] = {}  # by GPU: the process that had it, and with which GPUs
    for _, process, visible, *_ in sorted(given, key=lambda each: each[3]):
        before = {last.get(gpu) for gpu in visible.split(",")}
        if {each and each[1] for each in before} == {visible}:  # nobody else had any of them in between
            assert before == {(process, visible)}, "a process was started anew for no reason"
        last.update(dict.fromkeys(visible.split(","), (process, visible)))
