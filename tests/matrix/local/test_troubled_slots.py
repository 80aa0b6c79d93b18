"""Slots in which nothing starts, an error of the launcher, cells that signals stop, and what other runners leave."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from en_bench.errors import InputError
from en_bench.matrix.local import crew
from en_bench.matrix.local import launcher as launcher_module
from en_bench.matrix.local.devices import Slot, make_slots, slot_environment
from en_bench.matrix.local.launcher import LocalLauncher
from en_bench.matrix.local.stopping import UNSAVED
from en_bench.matrix.plan import PlannedCell, plan, plan_cells
from en_bench.matrix.results import Results
from en_bench.matrix.run import INTERRUPTED
from en_bench.matrix.spec import load_spec
from en_bench.matrix.stopped_cells import Standing, StoppedCells
from en_bench.resume.reached import Reached
from tests.conftest import REPO
from tests.matrix import fake_execute
from tests.matrix.running import RESULTS, nowhere, run, runner


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "PROGRAM", (sys.executable, fake_execute.__file__))
    monkeypatch.setenv("PYTHONPATH", str(REPO), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_PLACES", str(tmp_path / "places"))


def planned(spec_file: Path) -> list[PlannedCell]:
    return plan(load_spec(spec_file), {}, nowhere)


def launched(spec_file: Path) -> int:
    gpus = ("0", "1")

    def environment(own: Sequence[Slot]) -> dict[str, str]:
        return slot_environment(own, gpus, None)

    return LocalLauncher(runner(spec_file), make_slots(None, gpus), [], environment).run(planned(spec_file))


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


ONE_GPU_IS_BROKEN = """
import json, os, sys, time
if os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["FAKE_BROKEN"]:
    sys.exit("no such device")
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    time.sleep(0.0 if os.path.exists(os.environ["FAKE_PLACES"]) else 2.0)
    open(os.environ["FAKE_PLACES"], "a").write(line)
    print(json.dumps({"settled": False}), flush=True)
"""


def test_a_slot_in_which_nothing_starts_leaves_its_cells_to_the_others(
    spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_BROKEN", "1")
    monkeypatch.setattr(crew, "PROGRAM", (sys.executable, "-S", "-c", ONE_GPU_IS_BROKEN))
    assert launched(spec_file) == 0
    assert set((tmp_path / "places").read_text().split()) == {item.cell.id for item in planned(spec_file)}
    told = "processes for cells cannot start: the last one ended with exit code 1: no such device"
    assert capsys.readouterr().out.count(f"{told}: no more cells in slot GPU 1") == 1


def test_slots_that_fail_together_run_the_cells_that_want_one(
    spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "experiments/norm/en.yaml").open("a") as overlay:
        overlay.write("trainer: {devices: 2}\n")
    (tmp_path / "places").touch()
    monkeypatch.setenv("FAKE_BROKEN", "0,1")
    monkeypatch.setattr(crew, "PROGRAM", (sys.executable, "-S", "-c", ONE_GPU_IS_BROKEN))
    with pytest.raises(InputError, match="cannot start: the last one ended with exit code 1: no such device"):
        launched(spec_file)
    of_one_device = {item.cell.id for item in planned(spec_file) if item.cell.norm == "BatchNorm"}
    assert set((tmp_path / "places").read_text().split()) == of_one_device


ONE_ANSWERS_NONSENSE = """
import json, os, signal, sys, time
places, own = os.environ["FAKE_PLACES"], os.environ["CUDA_VISIBLE_DEVICES"]
def save(number, frame):
    open(places + ".saves", "w").close()
    time.sleep(0.5)
    open(places, "a").write(f"saved on {own} ")
    sys.exit(75)
signal.signal(signal.SIGUSR1, save)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    if own == "0":
        open(places, "x").close()
    while not os.path.exists(places):
        time.sleep(0.01)
    if own == "1":
        print("no JSON", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_an_error_of_the_launcher_lets_trainings_save_their_step(
    spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals | None
) -> None:
    """Also where somebody asks then for what it is about."""

    def ask() -> None:
        until((tmp_path / "places.saves").exists)
        os.kill(os.getpid(), number or 0)

    asks = threading.Thread(target=ask)
    asks.start()
    monkeypatch.setattr(launcher_module, "_SECONDS_TO_END", 0.1)
    monkeypatch.setattr(crew, "PROGRAM", (sys.executable, "-c", ONE_ANSWERS_NONSENSE))
    with pytest.raises(ValueError, match="Expecting value"):
        launched(spec_file)
    asks.join()
    assert "saved on 0" in (tmp_path / "places").read_text()


FAILS_AS_IT_STOPS = """
import os, sys, time
from types import SimpleNamespace
from en_bench.matrix.local.worker import serve
from en_bench.matrix.process import CutShort
from en_bench.stop import StopAsked, stoppable
def settle(item):
    try:
        open(os.environ["FAKE_PLACES"], "a").write(item.cell.id + "\\n")
        time.sleep(60)
    except StopAsked:
        raise CutShort
with stoppable():
    cells = [SimpleNamespace(cell=SimpleNamespace(id=name)) for name in os.environ["FAKE_CELLS"].split()]
    serve(SimpleNamespace(settle=settle), cells)
sys.exit(75)
"""


def test_a_cell_whose_process_ended_unsaved_is_not_told_to_be_saved(
    spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crew, "PROGRAM", (sys.executable, "-c", FAILS_AS_IT_STOPS))
    monkeypatch.setenv("FAKE_CELLS", " ".join(item.cell.id for item in planned(spec_file)))

    def ask() -> None:
        until(lambda: (tmp_path / "places").exists() and (tmp_path / "places").read_text().count("\n") == 2)
        os.kill(os.getpid(), signal.SIGINT)

    asks = threading.Thread(target=ask)
    asks.start()
    assert launched(spec_file) == INTERRUPTED
    asks.join()
    *_, first, second, last = capsys.readouterr().out.splitlines()
    assert "ended unsaved" in first and "ended unsaved" in second and last == UNSAVED


def test_a_cell_that_gains_hardly_anything_between_stops_is_given_up(spec_file: Path) -> None:
    item = planned(spec_file)[0]
    for standings, given_up in (
        ([Standing(3, None)] * 3, [False, False, True]),
        ([Standing(3, Reached(1, 9, step, 1000)) for step in (100, 101, 109)], [False, False, True]),
        ([Standing(3, Reached(1, 9, step, 1000)) for step in (100, 101, 111, 112, 113)], [False] * 4 + [True]),
        ([Standing(3, Reached(1, None, step, None)) for step in (1, 2, 3, 4)], [False] * 4),
        ([Standing(3, None), Standing(3, Reached(1, 9, 500, 1000)), Standing(2, None), Standing(1, None)], [False] * 4),
    ):
        left = iter(standings)
        stopped = StoppedCells(lambda item, left=left: next(left))  # type: ignore[misc]
        assert [stopped.stopped(item) is not None for _ in standings] == given_up


REASON = "signals stopped it 3 times in a row, with less than 1% of its training in between"


@pytest.mark.slow
def test_a_cell_whose_process_signals_stop_again_and_again_fails(spec_file: Path) -> None:
    """As a watch over memory does, which sends SIGTERM first. The other cells run."""
    command = [sys.executable, fake_execute.__file__, "matrix", "run", str(spec_file), "--only", "*/typeset/0"]
    environment = {**os.environ, "FAKE_FAIL": "ExemplarNorm", "FAKE_HOW": "stop"}
    done = subprocess.run(
        [*command, "--slots", "2"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("its process was asked to stop: it is taken up again from what was saved") == 2
    assert f"FAILED: {REASON}" in done.stdout
    records = Results(RESULTS).load()[0].values()
    assert {record.norm: record.reason for record in records} == {"BatchNorm": None, "ExemplarNorm": REASON}


def test_a_signal_to_one_command_does_not_end_the_run(
    spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "command"
    script.write_text("#!/bin/sh\nexit 75\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert run(spec_file, only="*/typeset/0", isolate=True) == 1
    out = capsys.readouterr().out
    assert out.count("its command was asked to stop: it is taken up again from what was saved") == 2 * 2
    assert [record.reason for record in Results(RESULTS).load()[0].values()] == [REASON] * 2


@pytest.mark.slow
def test_a_cell_that_another_runner_leaves_is_taken_up_while_others_run(spec_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, fake_execute.__file__, "matrix", "run", str(spec_file)]
    lefts, own, *_ = plan_cells(load_spec(spec_file))
    other = subprocess.Popen(
        [*command, "--only", str(lefts)], env={**os.environ, "FAKE_SECONDS": "60"}, stdout=subprocess.DEVNULL
    )
    until(lambda: (tmp_path / "places").exists())
    ours = subprocess.Popen(
        [*command, "--only", str(own), "--only", str(lefts), "--slots", "2"],
        env={**os.environ, "FAKE_SECONDS": "6"},
        stdout=subprocess.PIPE,
        text=True,
    )
    until(lambda: (tmp_path / "places").read_text().count("\n") == 2)
    other.send_signal(signal.SIGKILL)
    other.wait()
    out = ours.communicate(timeout=60)[0]
    assert ours.returncode == 0
    # The one that was left is begun before the own one has ended its training, and both end in turns.
    commands = (tmp_path / "places").read_text().splitlines()
    assert len(commands) == 1 + 6
    assert [line.split()[0] for line in commands[1:3]] == list(dict.fromkeys(line.split()[0] for line in commands[1:3]))
    assert len(re.findall(r"^\[\d/2\]", out, re.MULTILINE)) == 2
