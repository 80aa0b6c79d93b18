import sys
import threading

import pytest

from en_bench.matrix.local.time_left import Durations, Underway, time_left
from en_bench.matrix.plan import Cell, PlannedCell, State
from en_bench.matrix.records import Record


def cell(norm: str, train: str = "a", seed: int = 0) -> Cell:
    return Cell(f"{norm}{train}{seed}", norm, train, seed, (), {})


def done(norm: str, seconds: float) -> PlannedCell:
    record = Record("x", "s", "done", norm, "a", 0, {}, "log", fit={"cost": {"seconds": seconds}})
    return PlannedCell(cell(norm), State.DONE, record, frozenset())


def test_nothing_tells() -> None:
    assert time_left([(cell("BN"), 1, 1.0)], [], Durations(), 1) is None
    assert time_left([], [Underway(cell("BN"), 5.0, None)], Durations(), 1) is None
    assert time_left([], [], Durations(), 3) == 0.0


def test_the_same_normaliser_and_set_come_first() -> None:
    durations = Durations.of_records(
        [done("BN", 100.0), done("EN", 300.0), PlannedCell(cell("SN"), State.MISSING, None, frozenset())]
    )
    assert durations.expected(cell("BN")) == 100.0
    assert durations.expected(cell("BN", "b")) == 100.0
    assert durations.expected(cell("GN")) == 200.0  # the median of all
    durations.add(cell("BN"), 120.0)
    durations.add(cell("BN"), 140.0)
    durations.add(cell("BN", "b"), 900.0)
    assert durations.expected(cell("BN")) == 130.0  # what was measured now counts more than what a former run did
    assert durations.expected(cell("BN", "b")) == 900.0
    assert durations.expected(cell("BN", "c")) == 140.0
    assert durations.expected(cell("EN")) == 300.0


def test_cells_that_run_tell_of_those_that_wait() -> None:
    running = [Underway(cell("BN"), 10.0, 30.0), Underway(cell("EN"), 10.0, 60.0)]
    # 30 and 60 are left of those that run; 40, half of 70 and the median 55 of those that wait; in two slots.
    waiting = [(cell("BN", seed=1), 1, 1.0), (cell("EN", "b"), 1, 0.5), (cell("SN"), 1, 1.0)]
    assert time_left(waiting, running, Durations(), 2) == pytest.approx((30 + 60 + 40 + 35 + 55) / 2)


def test_no_shorter_than_the_longest_that_runs_and_a_cell_may_take_several_slots() -> None:
    running = [Underway(cell("BN"), 10.0, 90.0), Underway(cell("EN"), 95.0, 5.0)]
    assert time_left([], running, Durations(), 4) == 90.0
    wide = [Underway(cell("BN"), 10.0, 90.0, slots=4)]
    assert time_left([(cell("BN", seed=1), 4, 1.0)], wide, Durations(), 4) == 90.0 + 100.0


def test_what_runs_elsewhere_since_nobody_knows_when_tells_only_of_itself() -> None:
    elsewhere = [Underway(cell("EN"), None, 60.0)]
    assert time_left([], elsewhere, Durations(), 1) == 60.0
    assert time_left([(cell("EN", seed=1), 1, 1.0)], elsewhere, Durations(), 2) is None
    running = [Underway(cell("BN"), 10.0, 30.0), *elsewhere, Underway(cell("SN"), None, None)]
    assert time_left([(cell("EN", seed=1), 1, 1.0)], running, Durations(), 2) == pytest.approx((30 + 60 + 40 + 40) / 2)


def test_a_cell_that_is_late_or_trained_has_nothing_left() -> None:
    durations = Durations()
    durations.add(cell("BN"), 20.0)
    assert time_left([], [Underway(cell("BN"), 35.0, None)], durations, 1) == 0.0
    assert time_left([], [Underway(cell("BN"), 5.0, None)], durations, 1) == 15.0
    assert time_left([], [Underway(cell("BN"), 5.0, 4.0, trained=True)], durations, 1) == 0.0


def test_thousands_that_wait_take_no_thousands_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    durations, counted = Durations(), []
    monkeypatch.setattr("en_bench.matrix.local.time_left.median", lambda found: counted.append(len(found)) or 3.0)
    for seed in range(100):
        durations.add(cell("BN", "a", seed), 3.0)
    waiting = [(cell(f"norm{seed % 10}", "a", seed), 1, 1.0) for seed in range(2000)]
    for _ in range(3):
        assert time_left(waiting, [Underway(cell("EN"), 5.0, 4.0)], durations, 2) == (2000 * 3.0 + 4.0) / 2
    assert len(counted) <= 10


def test_durations_may_grow_while_another_thread_looks() -> None:
    durations, errors = Durations(), []
    durations.add(cell("BN"), 1.0)
    over = threading.Event()

    def look() -> None:
        try:
            while not over.is_set():
                durations.expected(cell("EN", "none"))
        except RuntimeError as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=look)
    thread.start()
    for number in range(3000):
        durations.add(cell(f"norm{number}"), 1.0)
    over.set()
    thread.join()
    sys.setswitchinterval(before)
    assert not errors
