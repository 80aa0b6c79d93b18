"""What other runners of the same matrix do, as it is seen here."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from en_bench.matrix.lease import Leases, local_holder
from en_bench.matrix.local.others import Elsewhere, Others
from en_bench.matrix.local.tally import Settled, Tally
from en_bench.matrix.local.time_left import Underway
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
    return Tally(
        spec,
        RESULTS,
        planned,
        slots=2,
        others=Others(LEASES, RESULTS, seconds=0.0, share=math.inf, slice_seconds=math.inf),
    )


class SlowFolder(Results):
    """Records of a shared folder: to look at it takes `seconds` of a clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        super().__init__(RESULTS.folder)
        self.now, self.seconds, self.looks = 1000.0, seconds, 0
        monkeypatch.setattr("en_bench.matrix.glances.time", SimpleNamespace(monotonic=lambda: self.now))

    def generations(self) -> dict[str, int]:
        self.now += self.seconds
        self.looks += 1
        return super().generations()


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


def planned_again(spec_file: Path) -> Tally:
    """By the records that there are by now; it looks at others whenever it is asked."""
    spec = load_spec(spec_file)
    others = Others(LEASES, RESULTS, seconds=0.0, share=math.inf, slice_seconds=math.inf)
    return Tally(spec, RESULTS, plan(spec, RESULTS.load()[0], lambda name: None), others=others)


def test_a_failed_cell_that_another_runs_again(tally: Tally, spec_file: Path) -> None:
    item = tally.waiting[0]
    RESULTS.save(record(item, status="failed"))
    again = planned_again(spec_file)
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
    again = planned_again(spec_file)
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


@pytest.mark.parametrize(
    ("took", "every", "afresh_every"),
    [(0.05, 3.0, 0.5), (2.0, 20.0, 20.0)],
    ids=["fast folder", "slow folder"],
)
def test_it_looks_now_and_then_and_for_a_tenth_of_the_time_at_most(
    tally: Tally, monkeypatch: pytest.MonkeyPatch, took: float, every: float, afresh_every: float
) -> None:
    folder = SlowFolder(monkeypatch, seconds=took)
    others = Others(LEASES, folder)
    cell = tally.waiting[0].cell.id
    assert not others.look(tally.waiting).held
    assert LEASES.take(cell) is not None
    folder.now += every - 0.01
    assert not others.look(tally.waiting).held and folder.looks == 1
    folder.now += 0.02
    assert list(others.look(tally.waiting).held) == [cell] and folder.looks == 2
    RESULTS.save(record(tally.waiting[0]))
    folder.now += afresh_every - 0.01
    assert not others.look(tally.waiting, afresh=True).records
    folder.now += 0.02
    assert list(others.look(tally.waiting, afresh=True).records) == [cell] and folder.looks == 3


def test_a_folder_that_cannot_be_read_leaves_what_was_seen_and_is_looked_at_again(
    tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SlowFolder(monkeypatch, seconds=0.05)
    others = Others(LEASES, folder)
    first, second = (item.cell.id for item in tally.waiting[:2])
    assert LEASES.take(first) is not None
    assert list(others.look(tally.waiting).held) == [first]
    away = RESULTS.leases.rename(RESULTS.folder / "away")
    RESULTS.leases.write_text("no folder")
    with pytest.raises(NotADirectoryError):
        os.listdir(RESULTS.leases)
    for _ in range(5):  # a second apart: it is not asked more often than one that answers
        folder.now += 1.0
        assert list(others.look(tally.waiting).held) == [first]
    assert folder.looks == 2
    RESULTS.leases.unlink()
    away.rename(RESULTS.leases)
    assert LEASES.take(second) is not None
    folder.now += 3.0
    assert list(others.look(tally.waiting).held) == [first, second]


def test_a_cell_whose_folder_refuses_hides_no_other(tally: Tally) -> None:
    """As another user's may; a file in its place refuses root too."""
    cells = [item.cell.id for item in tally.waiting[:4]]
    for cell in cells[:3]:
        assert LEASES.take(cell) is not None
    (RESULTS.leases / cells[1] / "1.json").unlink()
    (RESULTS.leases / cells[1]).rmdir()
    (RESULTS.leases / cells[1]).write_text("no folder")
    RESULTS.save(record(tally.waiting[3]))
    view = tally.view()
    assert (view.done, view.waiting) == (1, 5)
    assert [row.cell for row in view.elsewhere] == [str(tally.waiting[number].cell) for number in (0, 2)]


@pytest.mark.parametrize(
    ("command", "seconds_left", "silent", "left", "validating"),
    [
        ("fit", 65.0, 20.0, 45.0, False),
        ("fit", 65.0, 90.0, 0.0, False),  # it should have ended, and has not
        ("fit", None, 20.0, None, False),
        ("validate", 65.0, 20.0, None, True),  # others may come after it
    ],
    ids=["20 s ago", "over", "without end", "validation"],
)
def test_the_time_that_others_have_left_is_as_old_as_what_they_told(
    tally: Tally, command: str, seconds_left: float | None, silent: float, left: float | None, validating: bool
) -> None:
    told = Progress(command, command, 3, 10, 7, 20, 9.0, {}, seconds_left, "nodeB", 1, 0.0)
    item = tally.waiting[0]
    assert Elsewhere(item, "nodeB", told, silent).underway() == Underway(item.cell, None, left, validating)


def test_a_cell_that_ends_is_numbered_after_those_that_others_have_ended_since(spec_file: Path) -> None:
    spec = load_spec(spec_file)
    others = Others(LEASES, RESULTS, seconds=1000.0, share=math.inf, slice_seconds=math.inf)
    tally = Tally(spec, RESULTS, plan(spec, {}, lambda name: None), others=others)
    own, other = tally.waiting[:2]
    tally.begin(own, "1")
    assert tally.view().done == 0
    RESULTS.save(record(other))
    line = tally.settle(own, Settled(record(own, status="failed"), 9.0))
    assert line is not None and line.startswith("[2/8]")


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
