"""SIGUSR1 and SIGTERM, by which a cluster asks for a stop: the step ends on all ranks and is saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from en_bench.cli import main
from en_bench.matrix.process import CutShort, run_here
from en_bench.resume.interrupt import Interrupt
from en_bench.stop import STOPPED, StopAsked, asked_to_stop, leave_signals_to_parent, signalled_to_stop, stoppable
from tests.conftest import REPO
from tests.resume.runs import (
    SELDOM,
    STEPS,
    arguments,
    assert_a_group_stops_and_goes_on,
    assert_same,
    steps_of,
    what_is_left,
)
from tests.resume.test_kills import processes, run


@pytest.mark.parametrize(
    ("by", "point"), [("SIGUSR1", "batch 0 2"), ("SIGTERM", "batch 1 5"), ("SIGUSR1", "validation 0")]
)
def test_the_step_ends_and_is_saved(shards, tmp_path, capfd, by, point):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    assert main(arguments(shards, run, *SELDOM, kill=point, by=by)) == STOPPED
    told = capfd.readouterr().err
    assert f"stopped by {by}" in told and "the same command with --ckpt_path last continues" in told
    assert main(arguments(shards, run, *SELDOM, kill=point, by=by)) == 0
    assert steps_of(run) == STEPS
    assert main(arguments(shards, undisturbed, *SELDOM)) == 0
    assert_same(what_is_left(run), what_is_left(undisturbed))


def test_a_validation_ends_at_once(shards, tmp_path):
    run = tmp_path / "run"
    assert main(arguments(shards, run, *SELDOM, "--trainer.max_epochs", 1)) == 0
    killer = {"where": "validation 0", "marker": str(tmp_path / "killed"), "by": "SIGUSR1"}
    callbacks = json.dumps([{"class_path": "tests.resume.watch.KillAt", "init_args": killer}])
    last, result = run / "checkpoints" / "last.ckpt", tmp_path / "result.json"
    command = ["validate", "--config", str(run / "config.yaml"), "--ckpt_path", str(last), "--result", str(result)]
    assert main([*command, "--trainer.callbacks", callbacks]) == STOPPED
    assert not result.exists()
    assert main([*command, "--trainer.callbacks", callbacks]) == 0
    assert json.loads(result.read_text())["n"] == 93


@pytest.mark.slow
def test_the_ranks_agree_on_the_step_whichever_was_asked_first(shards, tmp_path):
    """Of Lightning's own ranks the first one is rank 0, of Slurm's it may be any."""
    run_2, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    options = (*SELDOM, *processes(2), "--data.workers", 1)
    point = {"kill": "batch 0 2", "by": "SIGUSR1", "rank": 1}
    assert run(arguments(shards, run_2, *options, **point), tmp_path) == STOPPED
    assert run(arguments(shards, run_2, *options, **point), tmp_path) == 0
    for rank in range(2):
        assert steps_of(run_2, rank, ranks=2) == STEPS
    assert run(arguments(shards, undisturbed, *options), tmp_path) == 0
    assert_same(what_is_left(run_2, 2), what_is_left(undisturbed, 2))


@pytest.mark.slow
def test_the_whole_group_may_get_the_signal(shards, tmp_path):
    """As with Slurm's default signal, which all processes of a step receive: loading processes live to see the end."""

    def twice(group: int) -> None:  # a second one changes nothing
        for _ in range(2):
            os.killpg(group, signal.SIGTERM)

    assert_a_group_stops_and_goes_on(shards, tmp_path, twice, code=STOPPED)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.2, 2.0])
def test_while_it_starts_there_is_nothing_to_save(shards, tmp_path, seconds):
    command = [sys.executable, "-m", "en_bench", *arguments(shards, tmp_path / "run", "--trainer.max_epochs", 500)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)}
    ) as fit:
        _until_it_handles(fit.pid, signal.SIGUSR1)
        time.sleep(seconds)
        fit.send_signal(signal.SIGUSR1)
        _, told = fit.communicate(timeout=60)
    assert fit.returncode == STOPPED
    assert "stopped by SIGUSR1" in told and "Traceback" not in told


def _until_it_handles(process: int, number: signal.Signals) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        (caught,) = (
            line.split()[1] for line in Path(f"/proc/{process}/status").read_text().splitlines() if "SigCgt" in line
        )
        if int(caught, 16) >> (number - 1) & 1:
            return
        time.sleep(0.01)
    raise AssertionError("it never handled the signal")


def test_one_that_was_swallowed_stops_the_training_at_its_first_step():
    """An exception raised while Python runs a destructor is only printed."""
    with stoppable():
        with pytest.raises(StopAsked):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopAsked), Interrupt():
            signal.raise_signal(signal.SIGTERM)
        assert asked_to_stop() is signal.SIGTERM
    assert asked_to_stop() is None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_while_the_step_is_not_over_others_can_tell_that_it_is_to_be_the_last():
    def step() -> None:
        with Interrupt():
            signal.raise_signal(signal.SIGUSR1)
            assert (asked_to_stop(), signalled_to_stop()) == (None, signal.SIGUSR1)

    with stoppable():
        assert signalled_to_stop() is None
        with pytest.raises(StopAsked):
            step()
        assert asked_to_stop() is signalled_to_stop() is signal.SIGUSR1
    assert signalled_to_stop() is None


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_after_it_stops_at_once(sigint, ignored):
    """Also in the background of a script, which has its children ignore SIGINT."""

    def asked_in_every_way() -> None:
        with Interrupt():
            for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGINT):
                signal.raise_signal(number)
                reached.append(number)

    reached: list[signal.Signals] = []
    before = signal.SIG_IGN if ignored else signal.default_int_handler
    signal.signal(signal.SIGINT, before)
    with stoppable(), pytest.raises(KeyboardInterrupt) as stopped:
        asked_in_every_way()
    assert not isinstance(stopped.value, StopAsked)
    assert reached == [signal.SIGUSR1, signal.SIGUSR1]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGINT])
def test_what_comes_after_the_step_was_saved_makes_nothing_unsaved(tmp_path, first):
    """A shell that ends sends its jobs SIGHUP, as their terminal does."""

    def execute(arguments):
        with Interrupt() as interrupt:
            signal.raise_signal(first)
            try:
                interrupt.obey(interrupt.by)
            finally:
                signal.raise_signal(signal.SIGHUP)

    with stoppable(), pytest.raises(KeyboardInterrupt) as stopped:
        run_here(execute, [], tmp_path / "log")
    assert not isinstance(stopped.value, CutShort)


def test_in_a_matrix_a_command_that_made_something_else_of_it_was_stopped(tmp_path):
    def execute(arguments):
        try:
            signal.raise_signal(signal.SIGUSR1)
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does

    with stoppable(), pytest.raises(KeyboardInterrupt):
        run_here(execute, [], tmp_path / "log")


def test_loading_processes_leave_signals_to_their_parent():
    child = os.fork()
    if child == 0:
        leave_signals_to_parent()
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
        os._exit(7 if signal.alarm(0) else 8)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
