"""What other runners of the same matrix do, as it is seen here."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from en_bench.matrix.lease import Leases, local_holder
from en_bench.matrix.local.others import Others
from en_bench.matrix.local.tally import Settled, Tally
from en_bench.matrix.plan import PlannedCell, plan
from en_bench.matrix.progress import Progress, write_progress
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.spec import load_spec
from tests.conftest import REPO
from tests.matrix import fake_execute

RESULTS = Results(Path("results/digits"))
LEASES = Leases(RESULTS.leases)


@pytest.fixture
def tally(spec_file: Path) -> Tally:
    spec = load_spec(spec_file)
    planned = plan(spec, RESULTS.load()[0], lambda name: None)
    return Tally(spec, RESULTS, planned, slots=2, others=Others(LEASES, RESULTS, seconds=0.0, share=math.inf))


def record(item: PlannedCell, generation: int = 1, status: str = "done") -> Record:
    cell = item.cell
    fit = {"seed": cell.seed, "train": {"set": "t"}, "val": {"set": "v"}, "metrics": {}, "cost": {}}
    axes = (cell.norm, cell.train, cell.seed)
    return Record(cell.id, "digits", status, *axes, {}, "log", "reason", fit, generation=generation)


def test_cells_and_records_of_others_are_counted_as_they_are(tally: Tally) -> None:
    first, second, third, fourth, fifth = tally.waiting[:5]
    for item in (first, second):
        assert LEASES.take(item.cell.id, holder={**local_holder(), "host": "nodeB", "machine": "nodeB"}) is not None
    RESULTS.run(second.cell.id).mkdir(parents=True)
    progress = Progress("fit", "fit", 3, 10, 7, 20, 99.6, {"top1": 0.125}, 65.0, "nodeB", 1, time.time())
    write_progress(RESULTS.run(second.cell.id), progress)
    RESULTS.save(record(third))
    RESULTS.save(record(fourth, status="failed"))
    released = LEASES.take(fifth.cell.id)
    assert released is not None
    released.give_back()
    view = tally.view()
    assert (view.done, view.failed, view.waiting, len(view.rows), len(view.elsewhere)) == (1, 1, 4, 0, 2)
    assert [row.columns("top1")[:3] for row in view.elsewhere] == [
        (str(first.cell), "nodeB", "starts"),
        (str(second.cell), "nodeB", "3/10"),
    ]
    # The same once this runner has tried them.
    for item in (first, second, third):
        tally.begin(item, "1")
    for item in (first, second):
        tally.leave(item)
    tally.settle(third, Settled(record(third), None))
    view = tally.view()
    assert (view.done, view.failed, view.waiting, len(view.rows), len(view.elsewhere)) == (1, 1, 4, 0, 2)
    # One ends, and the other is given up: it waits again.
    RESULTS.save(record(first, generation=2))
    os.utime(RESULTS.leases / second.cell.id / "1.json", (0, 0))
    view = tally.view()
    assert (view.done, view.failed, view.waiting, len(view.rows), len(view.elsewhere)) == (2, 1, 5, 0, 0)


def test_a_failed_cell_that_another_runs_again(tally: Tally, spec_file: Path) -> None:
    item = tally.waiting[0]
    RESULTS.save(record(item, status="failed"))
    planned = plan(load_spec(spec_file), RESULTS.load()[0], lambda name: None)
    again = Tally(load_spec(spec_file), RESULTS, planned, others=Others(LEASES, RESULTS, seconds=0.0, share=math.inf))
    assert (again.view().failed, again.view().waiting) == (0, 8)
    lease = LEASES.take(item.cell.id, after=1)
    assert lease is not None and len(again.view().elsewhere) == 1
    RESULTS.save(record(item, generation=2))
    lease.give_back()
    assert (again.view().done, again.view().waiting, len(again.view().elsewhere)) == (1, 7, 0)


def test_an_older_failure_that_stands_for_a_damaged_record_is_not_new(tally: Tally, spec_file: Path) -> None:
    item = tally.waiting[0]
    RESULTS.save(record(item, status="failed"))
    RESULTS.record(item.cell.id, 2).write_text("{")
    planned = plan(load_spec(spec_file), RESULTS.load()[0], lambda name: None)
    again = Tally(load_spec(spec_file), RESULTS, planned, others=Others(LEASES, RESULTS, seconds=0.0, share=math.inf))
    assert (again.view().failed, again.view().waiting) == (0, 8)


def test_time_left_counts_what_others_do(tally: Tally) -> None:
    other, own = tally.waiting[:2]
    tally.begin(own, "1")
    assert LEASES.take(other.cell.id) is not None
    for item, left in ((other, 65.0), (own, 40.0)):
        RESULTS.run(item.cell.id).mkdir(parents=True)
        progress = Progress("fit", "fit", 3, 10, 7, 20, 9.0, {}, left, "nodeB", 1, time.time() + 5)
        write_progress(RESULTS.run(item.cell.id), progress)
    # 40 s of the own one, 65 of the other's, six wait that are thought to take 40 each: in two slots and the other's.
    assert tally.seconds_left() == pytest.approx((40 + 65 + 6 * 40) / 3, abs=1)


def test_it_looks_now_and_then(tally: Tally) -> None:
    others = Others(LEASES, RESULTS, seconds=1000.0)
    assert not others.look(tally.waiting).held
    assert LEASES.take(tally.waiting[0].cell.id) is not None
    assert not others.look(tally.waiting).held


def test_a_cell_that_ends_is_numbered_after_those_that_others_have_ended_since(spec_file: Path) -> None:
    spec = load_spec(spec_file)
    others = Others(LEASES, RESULTS, seconds=1000.0, share=math.inf)
    tally = Tally(spec, RESULTS, plan(spec, {}, lambda name: None), others=others)
    own, other = tally.waiting[:2]
    tally.begin(own, "1")
    assert tally.view().done == 0
    RESULTS.save(record(other))
    line = tally.settle(own, Settled(record(own, status="failed"), 9.0))
    assert line is not None and line.startswith("[2/8]")


def test_it_looks_afresh_no_longer_than_its_share(tally: Tally) -> None:
    others = Others(LEASES, RESULTS, seconds=0.0, share=1e-9)
    assert not others.look(tally.waiting).held
    assert LEASES.take(tally.waiting[0].cell.id) is not None
    assert not others.look(tally.waiting, afresh=True).held


@pytest.mark.slow
def test_a_second_runner_is_followed_to_its_end(tally: Tally, spec_file: Path) -> None:
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    runner = subprocess.Popen(
        [sys.executable, fake_execute.__file__, "matrix", "run", str(spec_file), "--slots", "2"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, "FAKE_SECONDS": "0.3"},
    )
    seen, deadline = [], time.monotonic() + 100
    while (view := tally.view()).done < 8:
        assert time.monotonic() < deadline and runner.poll() in (None, 0)
        assert view.done + view.waiting + len(view.elsewhere) == 8 and len(view.elsewhere) <= 2
        seen.append((view.done, len(view.elsewhere)))
        time.sleep(0.02)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    # Cells may end together: two at a time at most, and one look or more between.
    assert len({done for done, _ in seen} & set(range(1, 8))) >= 2 and any(held == 2 for _, held in seen)
    assert runner.wait(60) == 0 and tally.seconds_left() == 0.0
