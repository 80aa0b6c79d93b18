"""What goes wrong around a cell: nobody reads the output, a folder refuses, holders are silent, the plan is old."""

import argparse
import errno
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from en_bench.lease_guard import LeaseLost
from en_bench.matrix import cell_run, process
from en_bench.matrix.cell_run import CellRun
from en_bench.matrix.lease import Leases, local_holder
from en_bench.matrix.local import crew
from en_bench.matrix.local.devices import make_slots, slot_environment
from en_bench.matrix.local.launcher import LocalLauncher
from en_bench.matrix.plan import PlannedCell, plan
from en_bench.matrix.process import CutShort, run_here, run_isolated
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.run import INTERRUPTED, Runner
from en_bench.matrix.silent import SilentHolders
from en_bench.matrix.spec import load_spec
from en_bench.matrix.training import make_room
from en_bench.matrix.verbs import add_verbs
from en_bench.resume.interrupt import TERMINAL, Interrupt
from tests.conftest import REPO
from tests.matrix import fake_execute

RESULTS = Results(Path("results/digits"))
LEASES = Leases(RESULTS.leases)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "PROGRAM", (sys.executable, fake_execute.__file__))
    monkeypatch.setenv("PYTHONPATH", str(REPO), prepend=os.pathsep)


def nowhere(name: str) -> str | None:
    return None


def runner(spec_file: Path) -> Runner:
    return Runner(CellRun(load_spec(spec_file), fake_execute.execute, RESULTS, nowhere), LEASES)


def planned(spec_file: Path) -> list[PlannedCell]:
    return plan(load_spec(spec_file), RESULTS.load()[0], nowhere)


def launch(spec_file: Path, *options: str) -> int:
    parser = argparse.ArgumentParser()
    add_verbs(parser.add_subparsers())
    args = parser.parse_args(["matrix", "run", str(spec_file), *options])
    code = args.handler(args, fake_execute.execute)
    assert isinstance(code, int)
    return code


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Nobody reads the output


def test_an_interrupt_that_cannot_be_told_is_one_all_the_same() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    token = TERMINAL.set(writing)
    steps = []

    def train() -> None:
        with Interrupt():
            signal.raise_signal(signal.SIGINT)
            steps.append("the rest of the step")

    try:
        with pytest.raises(KeyboardInterrupt):
            train()
    finally:
        TERMINAL.reset(token)
        os.close(writing)
    assert steps == ["the rest of the step"]


@pytest.mark.parametrize("slots", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_an_interrupt_that_ends_the_reader_too_stops_all_and_loses_nothing(
    spec_file: Path, tmp_path: Path, slots: str
) -> None:
    places = tmp_path / "places"
    run = subprocess.Popen(
        [sys.executable, fake_execute.__file__, "matrix", "run", str(spec_file), "--slots", slots],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "FAKE_SECONDS": "60", "FAKE_PLACES": str(places)},
    )
    until(lambda: places.exists() and places.read_text().count("\n") == int(slots))
    processes = psutil.Process(run.pid).children(recursive=True)
    assert run.stdout is not None
    run.stdout.close()
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == INTERRUPTED
    assert not psutil.wait_procs(processes, timeout=20)[1]
    assert RESULTS.load() == ({}, [])
    assert len(list(RESULTS.folder.glob("runs/*/started.json"))) == int(slots)
    leases = [LEASES.find(item.cell.id) for item in planned(spec_file)]
    assert sum(lease is not None and lease.released for lease in leases) == int(slots)


def test_a_run_goes_on_when_its_reader_has_gone(spec_file: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, fake_execute.__file__, "matrix", "run", str(spec_file), "--only", "*/typeset/0"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(RESULTS.load()[0]) == 2


# A folder or a disk refuses


def test_a_folder_that_refuses_fails_its_cell_only(spec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = planned(spec_file)[:2]
    RESULTS.leases.mkdir(parents=True)
    (RESULTS.leases / second.cell.id).write_text("where a folder has to be")

    def in_use(run: Path) -> str | None:
        if first.cell.id in str(run):
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(run))
        return make_room(run)

    monkeypatch.setattr(cell_run, "make_room", in_use)
    assert runner(spec_file).run() == 1
    records = RESULTS.load()[0]
    assert records[first.cell.id].reason == f"{RESULTS.run(first.cell.id)}: Directory not empty"
    assert second.cell.id not in records
    assert sorted(record.status for record in records.values()) == ["done"] * 6 + ["failed"]


@pytest.mark.slow
def test_slots_tell_of_a_cell_that_cannot_even_be_recorded(spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = planned(spec_file)[0]
    RESULTS.leases.mkdir(parents=True)
    (RESULTS.leases / first.cell.id).write_text("where a folder has to be")
    assert launch(spec_file, "--slots", "2", "--only", "BatchNorm/*/0") == 1
    assert "FAILED: no record could be written: " in capsys.readouterr().out
    assert [record.status for record in RESULTS.load()[0].values()] == ["done"]


def test_a_full_disk_ends_the_run(spec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Results, record: Record) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "results")

    monkeypatch.setattr(Results, "save", full)
    with pytest.raises(OSError, match="No space left"):
        runner(spec_file).run()


def test_a_full_disk_under_a_log_takes_no_output_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.symlink_to("/dev/full")
    before = [os.fstat(number) for number in (1, 2)]
    with open(1, "w", closefd=False) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(OSError, match="No space left"):
            run_here(lambda argv: print("of the command"), [], log)
        monkeypatch.undo()
        after = [os.fstat(number) for number in (1, 2)]
    assert [(each.st_dev, each.st_ino) for each in after] == [(each.st_dev, each.st_ino) for each in before]


# Another runner was faster


def test_a_failure_does_not_replace_what_another_has_recorded(spec_file: Path) -> None:
    item = planned(spec_file)[0]
    assert runner(spec_file).run(str(item.cell)) == 0
    started = RESULTS.run(item.cell.id) / "started.json"
    assert started.exists()
    settled = runner(spec_file).fail(item, "three processes have died", begins_anew=True)
    assert settled is not None and settled.record.status == "done" and settled.seconds is None
    record = RESULTS.find(item.cell.id)
    assert record is not None and (record.status, record.generation) == ("done", 1)
    assert started.exists()


def test_a_failure_under_a_lost_lease_is_not_recorded(spec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: CellRun, *_: object) -> Record:
        raise LeaseLost("taken over")

    item = planned(spec_file)[0]
    monkeypatch.setattr(CellRun, "record", lost)
    assert runner(spec_file).fail(item, "three processes have died") is None


# Silent holders


def held_elsewhere(item: PlannedCell, silent: float, expires: float = 120.0) -> Path:
    """A lease of a process on another machine, whose last sign of life was so many seconds ago; its file."""
    holder = {**local_holder(), "machine": "another one", "host": "n2"}
    lease = Leases(RESULTS.leases, expires_seconds=expires).take(item.cell.id, holder=holder)
    assert lease is not None
    os.utime(lease.path, (time.time() - silent,) * 2)
    return lease.path


def test_silent_holders_are_waited_for_until_they_beat_or_expire(spec_file: Path) -> None:
    first, second, third, here, *_ = planned(spec_file)
    said: list[str] = []
    alive, dead = held_elsewhere(first, 5.0), held_elsewhere(second, 95.0)
    assert LEASES.take(here.cell.id) is not None
    silent = SilentHolders(LEASES, said.append, seconds=0.0, share=math.inf)
    held = [first, second, here]
    assert silent.look(held) == [] == silent.look(held)
    assert len(said) == 1 and said[0].startswith(f"{second.cell}: held by process {os.getpid()} on n2, silent for ")
    assert said[0].endswith(" unless it gives a sign of life") and "taken over in 2" in said[0]
    os.utime(dead, (time.time() - 130.0,) * 2)
    assert silent.look(held) == [second]
    assert silent.look([first, here]) == []
    os.utime(alive, (time.time() + 10.0,) * 2)
    assert silent.look([first, here]) is None
    # What nobody holds is tried once more only: another runner may be faster again and again.
    assert silent.look([third]) == [third]
    assert silent.look([third]) is None


def test_a_folder_that_refuses_for_a_moment_ends_no_run(spec_file: Path) -> None:
    item, *_ = planned(spec_file)
    folder = held_elsewhere(item, 130.0).parent
    away = folder.rename(folder.with_name("away"))
    folder.write_text("no folder")
    silent = SilentHolders(replace(LEASES, expires_seconds=60.0), print, seconds=0.0, share=math.inf)
    assert silent.look([item]) == [] == silent.look([item])
    folder.unlink()
    away.rename(folder)
    assert silent.look([item]) == [item]
    folder.rename(away)
    folder.write_text("no folder")
    silent = SilentHolders(replace(LEASES, expires_seconds=0.0), print, seconds=0.0, share=math.inf)
    assert silent.look([item]) is None  # it refuses for as long as a lease lasts: it is left to others
    assert runner(spec_file).left_to_others([item]) == [f"{item.cell}: left to another runner"]


def test_what_a_machine_held_that_crashed_is_run_in_the_same_run(spec_file: Path) -> None:
    held_elsewhere(planned(spec_file)[0], silent=0.0, expires=1.0)
    assert runner(spec_file).run("*/handwritten/0") == 0
    assert sorted(record.generation for record in RESULTS.load()[0].values()) == [1, 2]


@pytest.mark.slow
def test_slots_run_what_a_machine_held_that_crashed(spec_file: Path) -> None:
    held_elsewhere(planned(spec_file)[0], silent=0.0, expires=5.0)
    assert launch(spec_file, "--slots", "2", "--only", "*/handwritten/0") == 0
    assert sorted(record.generation for record in RESULTS.load()[0].values()) == [1, 2]


# Processes


def test_an_isolated_command_has_the_time_to_end_its_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C asks once and waits: a signal that follows too soon would end what is about to be saved."""
    script = tmp_path / "command"
    script.write_text(
        f"#!{sys.executable}\nimport signal, sys, time\n"
        "def save(number, frame):\n    time.sleep(0.6)\n"
        "    open(sys.argv[-1], 'w').write(str(number))\n    sys.exit(0)\n"
        "signal.signal(signal.SIGINT, save)\nopen(sys.argv[-1], 'w').close()\ntime.sleep(60)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(process, "_SECONDS_TO_STOP", 0.1)
    monkeypatch.setattr(sys, "executable", str(script))
    saved = tmp_path / "saved"

    def interrupt() -> None:
        while not saved.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_isolated(["fit", str(saved)], tmp_path / "log")
    assert saved.read_text() == str(int(signal.SIGINT))


def test_a_second_interrupt_kills_an_isolated_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "command"
    script.write_text(
        f"#!{sys.executable}\nimport signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: open(sys.argv[-1], 'w').write('asked'))\n"
        "open(sys.argv[-1], 'w').close()\nwhile True:\n    time.sleep(60)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    asked = tmp_path / "asked"

    def interrupt() -> None:
        for content in ("", "asked"):
            until(lambda content=content: asked.exists() and asked.read_text() == content)  # type: ignore[misc]
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(CutShort):
        run_isolated(["fit", str(asked)], tmp_path / "log")


def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "command"
    script.write_text(f"#!/bin/sh\nsleep 100 &\necho $! > {tmp_path}/left\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert run_isolated(["fit"], tmp_path / "log") == "exit code 3"
    left = int((tmp_path / "left").read_text())

    def has_ended() -> bool:
        try:
            return psutil.Process(left).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    until(has_ended)


def test_a_plan_that_is_old_by_the_time_a_process_starts_fails_its_cells(
    spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = planned(spec_file)[:2]
    launcher = LocalLauncher(
        runner(spec_file),
        make_slots(1, ()),
        ["matrix", "run", str(spec_file), "--worker"],
        lambda own: slot_environment(own, (), 1),
    )
    started = RESULTS.run(chosen[0].cell.id) / "started.json"
    started.parent.mkdir(parents=True)
    started.write_text("{}")
    (spec_file.parent / "recipe/digits.yaml").write_text("model: {lr: 2e-1}\n")
    assert launcher.run(chosen) == 1
    reason = f"{spec_file}, or one of its overlays, changed since this run was planned: start it again"
    assert [record.reason for record in RESULTS.load()[0].values()] == [reason] * 2
    out = capsys.readouterr().out
    assert "taken up again" not in out and "Traceback" not in out
    assert started.exists()


def test_a_run_leaves_the_environment_as_it_was(spec_file: Path) -> None:
    before = dict(os.environ)
    assert launch(spec_file, "--only", "*/typeset/0", "--gpus", "none", "--threads", "3") == 0
    assert dict(os.environ) == before
