import os
import time
from pathlib import Path

import pytest

from en_bench.matrix.local.tally import Settled, Tally
from en_bench.matrix.plan import plan
from en_bench.matrix.progress import Progress, write_progress
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.spec import load_spec

RESULTS = Results(Path("results/digits"))


@pytest.fixture
def tally(spec_file: Path) -> Tally:
    spec = load_spec(spec_file)
    return Tally(spec, RESULTS, plan(spec, {}, lambda name: None), slots=2)


def progress(**changes: object) -> Progress:
    values = {"command": "fit", "phase": "fit", "epoch": 3, "epochs": 10, "step": 42, "steps": 120}
    values |= {"images_per_second": 812.5, "scores": {"top1": 0.5}, "seconds_left": 33.0, "time": time.time() + 1}
    return Progress(**{**values, "host": "h", "pid": 1, **changes})  # type: ignore[arg-type]


def record(cell_id: str, status: str = "done", seconds: float = 30.0) -> Record:
    validate = {label: {"set": label, "n": 5, "metrics": {"top1": 0.25}} for label in ("handwritten", "typeset")}
    fit = {"cost": {"seconds": seconds}}
    return Record(cell_id, "digits", status, "n", "t", 0, {}, "log.txt", "a reason", fit=fit, validate=validate)


def test_what_a_killed_command_left_is_not_believed(tally: Tally) -> None:
    item = tally.waiting[0]
    RESULTS.run(item.cell.id).mkdir(parents=True)
    write_progress(RESULTS.run(item.cell.id), progress(time=time.time() - 1))
    tally.begin(item, "1")
    (row,) = tally.view().rows
    assert row.progress is None and tally.seconds_left() is None
    write_progress(RESULTS.run(item.cell.id), progress())
    (row,) = tally.view().rows
    assert row.progress is not None and row.at_work
    # 33 s of this one, and 7 more of 33 s, in two slots.
    assert tally.seconds_left() == pytest.approx(8 * 33 / 2, abs=1)


def test_between_its_commands_a_cell_keeps_what_it_has_told(tally: Tally) -> None:
    item = tally.waiting[0]
    run = RESULTS.run(item.cell.id)
    run.mkdir(parents=True)
    tally.begin(item, "1")
    write_progress(run, progress())
    tally.view()
    (run / "progress.json").unlink()
    (row,) = tally.view().rows
    assert row.columns("top1")[2:6] == ("3/10 ...", "-", "50.0", "-")
    write_progress(run, progress(command="validate", phase="validate", epoch=None, epochs=None, scores={}))
    (row,) = tally.view().rows
    assert row.columns("top1")[2:6] == ("validates", "812", "50.0", "33.0 s")
    assert tally.seconds_left() == pytest.approx(7 * 33 / 2, abs=1)


@pytest.mark.parametrize("ahead", [-600.0, 0.0, 600.0])
def test_a_clock_of_the_commands_that_is_wrong_hides_nothing(tally: Tally, ahead: float) -> None:
    """Set back after the cell began, or of another machine: what counts is that they tell something."""
    item = tally.waiting[0]
    run = RESULTS.run(item.cell.id)
    run.mkdir(parents=True)
    tally.begin(item, "1")
    for epoch in (3, 4):
        write_progress(run, progress(epoch=epoch, time=time.time() + ahead))
        (row,) = tally.view().rows
        assert row.columns("top1")[2:6] == (f"{epoch}/10", "812", "50.0", "33.0 s")
    RESULTS.leases.mkdir()
    os.utime(run / "progress.json", (time.time() - 200,) * 2)
    (row,) = tally.view().rows
    assert row.columns("top1")[5].startswith("silent 3 min 2")


def test_lines_and_counts(tally: Tally) -> None:
    first, second, third, fourth = tally.waiting[:4]
    for item in (first, second, third, fourth):
        tally.begin(item, "1")
    line = tally.settle(first, Settled(record(first.cell.id), 31.0))
    assert line == (
        "[1/8] BatchNorm     handwritten  seed 0   handwritten 25.0  typeset 25.0   31.0 s   time left 1 min 48 s"
    )
    line = tally.settle(second, Settled(record(second.cell.id, "failed"), 500.0))
    assert line is not None and line.startswith("[2/8] BatchNorm     handwritten  seed 1   FAILED: a reason (log: ")
    assert tally.settle(third, Settled(record(third.cell.id), None)) is None  # another runner has said it
    tally.leave(fourth)
    view = tally.view()
    assert (view.done, view.failed, view.waiting, view.left, len(view.rows)) == (2, 1, 4, 1, 0)
    # Only the first was trained here as a whole: what failed, or others did, tells of no duration.
    assert view.seconds_left == pytest.approx(4 * 31 / 2)
    item = tally.waiting[0]
    tally.begin(item, "2")
    tally.wait(item)
    assert tally.waiting[0] is item


def test_a_validation_alone_tells_no_duration(tally: Tally) -> None:
    item = tally.waiting[0]
    tally.begin(item, "1")
    tally.settle(item, Settled(record(item.cell.id, seconds=30.0), 2.0))
    assert tally.seconds_left() is None


def test_cells_of_others_are_tried_again_once_any_has_ended(tally: Tally) -> None:
    first, second = tally.waiting[:2]
    tally.begin(first, "1")
    tally.leave(first)
    assert not tally.another_round()
    tally.begin(second, "1")
    tally.settle(second, Settled(record(second.cell.id), None))
    assert tally.another_round()
    assert first in tally.waiting and not tally.held
    tally.begin(first, "1")
    tally.leave(first)
    assert not tally.another_round()
