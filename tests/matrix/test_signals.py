"""Runs in the background, on terminals that close or are left by Ctrl-Z, and without standard streams."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from en_bench.matrix.process import CutShort, run_here, run_isolated
from en_bench.matrix.run import INTERRUPTED
from en_bench.resume.interrupt import Interrupt
from en_bench.stop import STOPPED, stoppable
from tests.conftest import REPO
from tests.matrix import fake_execute

RUN = [sys.executable, fake_execute.__file__, "matrix", "run"]


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPO), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_PLACES", str(tmp_path / "places"))
    monkeypatch.setenv("FAKE_SECONDS", "60")
    monkeypatch.setenv("TERM", "xterm")


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def works(tmp_path: Path, count: int) -> bool:
    places = tmp_path / "places"
    return places.exists() and places.read_text().count("\n") == count


@pytest.mark.slow
@pytest.mark.parametrize("started", [True, False])
def test_a_run_in_the_background_of_a_script_can_be_stopped(spec_file: Path, tmp_path: Path, started: bool) -> None:
    """Such a script has its children ignore SIGINT."""
    out = tmp_path / "out"
    script = subprocess.Popen(
        ["sh", "-c", '"$@" > out & echo $!; wait $!', "sh", *RUN, str(spec_file), "--slots", "2"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert script.stdout is not None
    launcher = psutil.Process(int(script.stdout.readline()))
    until(lambda: works(tmp_path, 2) if started else "8 cells" in (out.read_text() if out.exists() else ""))
    processes = launcher.children(recursive=True)
    launcher.send_signal(signal.SIGTERM)
    assert script.wait(30) == STOPPED
    assert not psutil.wait_procs(processes, timeout=20)[1]
    assert "all is saved" in out.read_text().splitlines()[-1]
    assert not list(tmp_path.glob("results/digits/records/*"))
    script.stdout.close()


@pytest.mark.parametrize(
    ("number", "background"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_a_stop_that_was_noticed_outlives_an_error(
    tmp_path: Path, sigint: None, number: signal.Signals, background: bool
) -> None:
    if background:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def execute(arguments: list[str]) -> None:
        with Interrupt():
            os.kill(os.getpid(), number)
            raise RuntimeError("the validation's loader has ended")

    with stoppable(), pytest.raises(KeyboardInterrupt) as stopped:
        run_here(execute, [], tmp_path / "log")
    assert isinstance(stopped.value, CutShort)


ANSWERS = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: None)
def end(number, frame):
    open(sys.argv[-1], "w").write("asked")
    while not os.path.exists(sys.argv[-1] + ".later"):
        time.sleep(0.01)
    time.sleep(0.2)
    open(sys.argv[-1], "w").write("saved")
    {end}
signal.signal(signal.SIGINT, end)
open(sys.argv[-1], "w").close()
time.sleep(60)
"""


def interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, later: signal.Signals | None = None
) -> tuple[type[BaseException], str]:
    """How `run_isolated` ends by Ctrl-C, and a signal `later`, and how far the step is that a command saves then."""
    script, step = tmp_path / "command", tmp_path / "step"
    script.write_text(f"#!{sys.executable} -S\n{ANSWERS.format(end=end)}")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    def send() -> None:
        for content, number in (("", signal.SIGINT), ("asked", later)):
            until(lambda content=content: step.exists() and step.read_text() == content)  # type: ignore[misc]
            if number is not None:
                os.kill(os.getpid(), number)
        step.with_name("step.later").touch()

    sender = threading.Thread(target=send)
    sender.start()
    with stoppable(), pytest.raises(KeyboardInterrupt) as ended:
        run_isolated(["fit", str(step)], tmp_path / "log")
    sender.join()
    return type(ended.value), step.read_text()


@pytest.mark.parametrize("later", [signal.SIGHUP, signal.SIGTERM])
def test_a_terminal_that_closes_after_ctrl_c_leaves_an_isolated_command_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: signal.Signals
) -> None:
    assert interrupted(tmp_path, monkeypatch, "sys.exit(130)", later) == (KeyboardInterrupt, "saved")


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("sys.exit(1)", CutShort),
        ("signal.raise_signal(signal.SIGKILL)", CutShort),
        ("sys.exit(75)", KeyboardInterrupt),
        ("signal.signal(number, signal.SIG_DFL); signal.raise_signal(number)", KeyboardInterrupt),
    ],
)
def test_an_isolated_command_that_an_error_ends_after_an_interrupt_has_saved_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, how: type[BaseException]
) -> None:
    assert interrupted(tmp_path, monkeypatch, end) == (how, "saved")


class Terminal:
    """A run on a pseudo terminal of its own."""

    def __init__(self, spec_file: Path, *before: str) -> None:
        self.process, self.master = pty.fork()
        if self.process == 0:
            os.execvp([*before, *RUN][0], [*before, *RUN, str(spec_file), "--slots", "2"])
        self.output = b""

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not reached():
            assert time.monotonic() < deadline, self.output.decode()
            if select.select([self.master], [], [], 0.05)[0]:
                self.output += os.read(self.master, 65536)


@pytest.mark.slow
def test_a_terminal_that_closes_stops_its_run(spec_file: Path, tmp_path: Path) -> None:
    run = Terminal(spec_file)
    run.until(lambda: works(tmp_path, 2))
    processes = psutil.Process(run.process).children(recursive=True)
    os.close(run.master)
    assert os.waitstatus_to_exitcode(os.waitpid(run.process, 0)[1]) == STOPPED
    assert not psutil.wait_procs(processes, timeout=20)[1]
    leases = [path.read_text() for path in tmp_path.glob("results/digits/leases/*/*.json")]
    assert len(leases) == 2 and all('"released": true' in text for text in leases)  # by processes that were not killed


@pytest.mark.slow
def test_ctrl_z_leaves_the_cursor_to_the_shell(spec_file: Path, tmp_path: Path) -> None:
    # Between a shell's: a group whose parent is in another session cannot be halted.
    run = Terminal(spec_file, "bash", "-c", 'set -m; "$@"; fg >&2; exit $?', "bash")
    run.until(lambda: works(tmp_path, 2))
    (launcher,) = (each for each in psutil.Process(run.process).children() if "matrix" in each.cmdline())
    run.output = b""
    os.kill(launcher.pid, signal.SIGTSTP)
    run.until(lambda: b"\x1b[?25h" in run.output and b"\x1b[?25l" in run.output.partition(b"\x1b[?25h")[2])
    launcher.send_signal(signal.SIGINT)
    with suppress(OSError):  # the other side is closed
        run.until(lambda: False)
    os.close(run.master)
    assert os.waitstatus_to_exitcode(os.waitpid(run.process, 0)[1]) == INTERRUPTED


@pytest.mark.slow
def test_a_run_without_standard_streams(spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0")
    for closed in ("<&-", ">&-", "<&- >&- 2>&-"):
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", *RUN, str(spec_file), "--slots", "2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert len(list(tmp_path.glob("results/digits/records/*"))) == 8
        for record in tmp_path.glob("results/digits/records/*"):
            record.unlink()


@pytest.mark.slow
def test_a_reader_that_leaves_costs_no_page(spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0")
    run = subprocess.Popen([*RUN, str(spec_file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert any(line.startswith("[8/8]") for line in run.stdout)
    run.stdout.close()
    assert run.wait(60) == 0
    assert run.stderr is not None and not run.stderr.read()
    assert (tmp_path / "results/digits/report.html").exists()
    run.stderr.close()
