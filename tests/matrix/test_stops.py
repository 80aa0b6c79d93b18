"""Interrupts and kills of real runs in several slots: whatever comes, the next run goes on to the same numbers."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from en_bench.matrix.progress import read_progress
from en_bench.matrix.results import Results
from tests.conftest import REPO
from tests.test_main_job import numbers

pytestmark = pytest.mark.slow

SPEC = """
name: toy
title: Two cells, for the test
base: [{experiments}/base.yaml, {experiments}/recipe/digits.yaml, {{trainer: {{max_epochs: 5, accelerator: cpu}},
  data: {{batch_size: 16}}, checkpoint: {{every_n_steps: 2}}}}]
norms: {{BatchNorm: {experiments}/norm/bn.yaml}}
train: {{a: {{data: {{train: a/train, val: a/val}}}}}}
seeds: [0, 1]
"""


class Launched:
    """A `matrix run` in a session of its own, on a pseudo terminal of 24 x 100 or with its output in a file."""

    def __init__(self, folder: Path, shards: Path, *options: str, terminal: bool = False) -> None:
        self.folder = folder
        self.output = b""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.master = master
        arguments = ["matrix", "run", "toy.yaml", "--data-root", str(shards), "--threads", "1", *options]
        piped = None if terminal else subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-m", "en_bench", *arguments],
            cwd=folder,
            stdin=slave,
            stdout=slave if terminal else piped,
            stderr=slave if terminal else subprocess.STDOUT,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C there is for this session
        )
        os.close(slave)
        self.source = master if terminal else self.process.stdout.fileno()  # type: ignore[union-attr]

    def read(self, seconds: float) -> bool:
        """Takes in what it prints; False once it has ended."""
        if select.select([self.source], [], [], seconds)[0]:
            try:
                part = os.read(self.source, 65536)
            except OSError:  # of a pseudo terminal whose other side is closed
                return False
            self.output += part
            return bool(part)
        return True

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not reached():
            assert time.monotonic() < deadline and self.process.poll() is None, self.output.decode()
            self.read(0.05)

    def steps(self) -> list[int]:
        """Where the trainings are that run."""
        found = [read_progress(run) for run in (self.folder / "results/toy/runs").glob("*")]
        return [each.step for each in found if each is not None and each.command == "fit"]

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> int:
        """Waits for its end; its exit code."""
        deadline = time.monotonic() + 120
        while self.read(0.2):
            assert time.monotonic() < deadline, self.output.decode()
        code = self.process.wait(30)
        os.close(self.master)
        return code


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of a run of one slot that nothing stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "toy.yaml").write_text(SPEC.format(experiments=REPO / "experiments"))
    run = Launched(folder, shards)
    assert run.end() == 0, run.output.decode()
    return folder / "results"


def is_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


def said(folder: Path, text: str) -> int:
    """How often the logs of all cells say it."""
    return sum(log.read_text().count(text) for log in folder.glob("results/toy/runs/*/log.txt"))


def test_whatever_stops_it_the_next_run_continues(shards: Path, tmp_path: Path, undisturbed: Path) -> None:
    (tmp_path / "toy.yaml").write_text(SPEC.format(experiments=REPO / "experiments"))

    # One slot on a terminal: there is a table, and Ctrl-C reaches only the launcher.
    first = Launched(tmp_path, shards, terminal=True)
    first.until(lambda: b"images/s" in first.output and max(first.steps(), default=0) > 4)
    began, processes = max(first.steps()), first.descendants()
    os.write(first.master, b"\x03")
    assert first.end() == 130
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", first.output.decode())
    assert text.count("stopping, waits for BatchNorm/a/0: a training ends its step, or its validation") == 1
    assert "stopped: all is saved, the same command goes on" in text
    assert "BatchNorm/a/0" in text and "running 1, waiting 1 of 2" in text and "Traceback" not in text
    assert is_gone(processes)
    assert said(tmp_path, "en-bench: stopped in epoch") == 1  # and so has saved its step

    # Two slots, every command isolated.
    second = Launched(tmp_path, shards, "--slots", "2", "--isolate")
    second.until(lambda: len(second.steps()) == 2 and min(second.steps()) > began)
    processes = second.descendants()
    second.process.send_signal(signal.SIGINT)
    assert second.end() == 130
    assert is_gone(processes)
    told = second.output.decode()
    assert "BatchNorm/a/0: goes on where it was cut off" in told and "Traceback" not in told
    assert said(tmp_path, "en-bench: stopped in epoch") == 3

    # Two slots; of two interrupts the second comes at once.
    third = Launched(tmp_path, shards, "--slots", "2")
    third.until(lambda: len(third.steps()) == 2 and min(third.steps()) > 16)
    processes = third.descendants()
    for _ in range(2):
        third.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert third.end() == 130
    told = third.output.decode()
    assert told.count("ended unsaved: the steps since its checkpoint are lost, which is") == 2
    assert "stopped: the same command goes on from what was saved" in told
    assert is_gone(processes)
    assert not list(tmp_path.glob("results/toy/records/*"))

    # One process is killed, and then the launcher.
    fourth = Launched(tmp_path, shards, "--slots", "2")
    fourth.until(lambda: len(fourth.steps()) == 2)
    worker = next(each for each in fourth.descendants() if "--worker" in each.cmdline())
    worker.kill()
    fourth.until(lambda: b"was killed by SIGKILL (out of memory?): it is taken up again" in fourth.output)
    fourth.until(lambda: b"goes on where it was cut off" in fourth.output.rpartition(b"taken up again")[2])
    processes = fourth.descendants()
    fourth.process.kill()
    fourth.process.wait()
    assert is_gone(processes)

    last = Launched(tmp_path, shards, "--slots", "2")
    assert last.end() == 0, last.output.decode()
    found, expected = Results(tmp_path / "results/toy").load()[0], Results(undisturbed / "toy").load()[0]
    assert len(found) == len(expected) == 2
    for cell, record in found.items():
        assert record.status == "done"
        assert numbers(record.to_json()) == numbers(expected[cell].to_json())


def test_ctrl_c_between_trainings(shards: Path, tmp_path: Path) -> None:
    """While torch is imported, in a validation, in a recalibration: none of them is waited for."""
    text = SPEC.format(experiments=REPO / "experiments").replace("seeds: [0, 1]", "seeds: [0]\nadapted: {a: a/val}")
    (tmp_path / "toy.yaml").write_text(text.replace("max_epochs: 5,", "max_epochs: 1,"))
    for command, told in (
        ("$ en-bench fit", []),
        ("$ en-bench validate", ["BatchNorm/a/0: its training is whole, the validation under way begins anew"]),
        ("$ en-bench norms", ["BatchNorm/a/0: its training is whole, the validation under way begins anew"]),
    ):
        run = Launched(tmp_path, shards, "--slots", "2")
        before = said(tmp_path, command)
        run.until(lambda command=command, before=before: said(tmp_path, command) > before)  # type: ignore[misc]
        processes = run.descendants()
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130, run.output.decode()
        assert is_gone(processes)
        lines = run.output.decode().splitlines()
        assert lines[1].startswith("stopping, waits for BatchNorm/a/0: ") or "goes on" in lines[1]
        assert lines[-1 - len(told) :] == [*told, "stopped: all is saved, the same command goes on"]
    last = Launched(tmp_path, shards, "--slots", "2")
    assert last.end() == 0, last.output.decode()


def test_one_slot_without_a_terminal_tells_the_same(shards: Path, tmp_path: Path, undisturbed: Path) -> None:
    text = SPEC.format(experiments=REPO / "experiments").replace("seeds: [0, 1]", "seeds: [0]")
    (tmp_path / "toy.yaml").write_text(text)
    for stopped, options in enumerate(([], ["--isolate"])):
        run = Launched(tmp_path, shards, *options)
        run.until(lambda run=run, least=4 * (1 + stopped): max(run.steps(), default=0) > least)  # type: ignore[misc]
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130
        assert run.output.decode().splitlines()[-1] == "stopped: all is saved, the same command goes on"
        assert said(tmp_path, "en-bench: stopped in epoch") == 1 + stopped
    last_run = Launched(tmp_path, shards)
    assert last_run.end() == 0, last_run.output.decode()
    (record,) = Results(tmp_path / "results/toy").load()[0].values()
    expected = Results(undisturbed / "toy").load()[0][record.id]
    assert numbers(record.to_json()) == numbers(expected.to_json())


def test_a_cell_of_two_devices_runs_in_two_slots(shards: Path, tmp_path: Path) -> None:
    text = SPEC.format(experiments=REPO / "experiments").replace("seeds: [0, 1]", "seeds: [0]")
    (tmp_path / "toy.yaml").write_text(text.replace("max_epochs: 5,", "max_epochs: 1, devices: 2,"))
    run = Launched(tmp_path, shards, "--slots", "2", terminal=True)
    assert run.end() == 0, run.output.decode()
    assert re.search(r"BatchNorm/a/0 +1, 2 +\S", run.output.decode())
    (record,) = Results(tmp_path / "results/toy").load()[0].values()
    assert record.fit["ranks"] == 2
