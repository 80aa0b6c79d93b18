"""Ctrl-C, which loses nothing: each batch is trained on once."""

import os
import signal
import threading
from contextlib import suppress

import pytest

from en_bench.cli import main
from en_bench.matrix.process import run_here
from en_bench.resume.interrupt import Interrupt
from tests.resume.runs import (
    SELDOM,
    STEPS,
    Left,
    arguments,
    assert_a_group_stops_and_goes_on,
    assert_same,
    steps_of,
    what_is_left,
)


@pytest.fixture(autouse=True)
def handler():
    """Lightning ignores all further interrupts after one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Left:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(arguments(shards, run, *SELDOM)) == 0
    return what_is_left(run)


@pytest.mark.parametrize("point", ["batch 0 0", "batch 0 2", "batch 0 5", "validation 0", "batch 1 5", "validation 1"])
def test_a_first_one_lets_the_step_end_and_saves_it(shards, tmp_path, undisturbed, capfd, point):
    run = tmp_path / "run"
    assert main(arguments(shards, run, *SELDOM, kill=point, by="interrupt")) == 130
    told = capfd.readouterr().err
    assert "stopping after this step" in told and "the same command with --ckpt_path last continues" in told
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert main(arguments(shards, run, *SELDOM, kill=point, by="interrupt")) == 0
    assert steps_of(run) == STEPS
    assert_same(what_is_left(run), undisturbed)


def test_with_accumulated_gradients_the_optimisers_step_ends(shards, tmp_path):
    run = tmp_path / "run"
    more = (*SELDOM, "--trainer.accumulate_grad_batches", 3)
    assert main(arguments(shards, run, *more, kill="batch 0 0", by="interrupt")) == 130
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert main(arguments(shards, run, *more, kill="batch 0 0", by="interrupt")) == 0
    assert steps_of(run) == STEPS


def test_the_terminal_interrupts_loading_processes_too(shards, tmp_path):
    assert_a_group_stops_and_goes_on(shards, tmp_path, lambda group: os.killpg(group, signal.SIGINT), code=130)


def test_a_second_one_stops_at_once():
    reached = []

    def twice() -> None:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGINT)
            reached.append(interrupt.by)
            signal.raise_signal(signal.SIGINT)
            reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert reached == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_that_nothing_obeyed_takes_effect_at_the_end_and_only_once():
    interrupt = Interrupt()

    def interrupted(error: type[Exception] | None = None) -> None:
        with interrupt:
            signal.raise_signal(signal.SIGINT)
            if error is not None:
                raise error

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ZeroDivisionError):
        interrupted(ZeroDivisionError)
    with interrupt:
        assert interrupt.by is None
        interrupt.obey()


def test_without_one_nothing_happens_and_the_handler_is_back():
    with Interrupt() as interrupt:
        interrupt.obey()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    interrupt.obey()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_interrupts_are_ignored_they_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.by is None


def test_in_another_thread_nothing_is_changed():
    def enter():
        with Interrupt():
            found.append(signal.getsignal(signal.SIGINT))

    found = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def test_an_interrupt_that_was_swallowed_before_the_training_stops_it_at_its_first_step(tmp_path):
    def execute(arguments):
        with suppress(KeyboardInterrupt):  # as an import does that tries something
            signal.raise_signal(signal.SIGINT)
        with Interrupt() as interrupt:
            found.append(interrupt.by)
            interrupt.obey()
        found.append("went on")

    found = []
    with pytest.raises(KeyboardInterrupt):
        run_here(execute, [], tmp_path / "log")
    assert found == [signal.SIGINT]
    with pytest.raises(KeyboardInterrupt):
        run_here(lambda arguments: signal.raise_signal(signal.SIGINT), [], tmp_path / "log")
    assert run_here(lambda arguments: Interrupt().__enter__().__exit__(None), [], tmp_path / "log") is None


def test_in_a_matrix_the_terminal_is_told_and_not_the_log(tmp_path, capfd):
    def execute(arguments):
        with Interrupt():
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_here(execute, [], tmp_path / "log")
    assert "stopping after this step" in capfd.readouterr().err
    assert (tmp_path / "log").read_text() == ""
