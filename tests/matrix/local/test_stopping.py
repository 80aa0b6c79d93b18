"""What a run says while it stops."""

import os
import re
import time
from pathlib import Path

import pytest

from en_bench.matrix.local.live import Row
from en_bench.matrix.local.stopping import AGAIN, SAVED, UNSAVED, Stopping
from en_bench.matrix.plan import PlannedCell, plan
from en_bench.matrix.progress import Progress
from en_bench.matrix.results import Results
from en_bench.matrix.spec import load_spec

RESULTS = Results(Path("results/digits"))
PROGRESS = Progress("fit", "validate", 3, 10, 7, 20, 99.6, {"top1": 0.125}, 65.0, "host", 1, 0.0)


@pytest.fixture
def items(spec_file: Path) -> list[PlannedCell]:
    return plan(load_spec(spec_file), {}, lambda name: None)


def row(item: PlannedCell, progress: Progress | None = PROGRESS) -> Row:
    return Row(str(item.cell), "1", 9.0, progress)


def test_who_is_awaited_is_told_at_once_and_again(items: list[PlannedCell]) -> None:
    said: list[str] = []
    stopping = Stopping(RESULTS, "top1", said.append, seconds=0.0)
    stopping.begin(items[:6])
    names = ", ".join(str(item.cell) for item in items[:4])
    assert said == [
        f"stopping, waits for {names} and 2 more: a training ends its step, or its validation, and saves it; {AGAIN}"
    ]
    stopping.wait({str(items[1].cell): row(items[1])})
    told = rf"[\d.]+ s after the request, waits for {items[1].cell} \(epoch 3/10 val, .+\); {AGAIN}"
    assert re.fullmatch(told, said[1])
    stopping.wait({})
    run = RESULTS.run(items[2].cell.id)
    run.mkdir(parents=True)
    (run / "fit.json").touch()
    for item in items[1:3]:
        stopping.saved(item)
    stopping.end()
    assert said[2:] == [f"{items[2].cell}: its training is whole, the validation under way begins anew", SAVED]


def test_lines_are_seldom(items: list[PlannedCell]) -> None:
    said: list[str] = []
    stopping = Stopping(RESULTS, "top1", said.append, seconds=1000.0)
    stopping.begin([])
    stopping.wait({str(items[0].cell): row(items[0])})
    assert not said


def test_what_is_lost_is_told(items: list[PlannedCell]) -> None:
    trained, cut_off, begun, started = items[:4]
    for item in (trained, cut_off):
        checkpoint = RESULTS.run(item.cell.id) / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        os.utime(checkpoint, (0, time.time() - 7200))
    (RESULTS.run(trained.cell.id) / "fit.json").touch()
    said: list[str] = []
    stopping = Stopping(RESULTS, "top1", said.append)
    for item in (trained, cut_off, begun):
        stopping.lose(item, row(item))
    stopping.lose(started, row(started, None))
    stopping.end()
    assert said == [
        f"{trained.cell} ended unsaved: the validation under way begins anew",
        f"{cut_off.cell} ended unsaved: the steps since its checkpoint are lost, which is 2 h 00 min old",
        f"{begun.cell} ended unsaved: there is no checkpoint yet, its training begins anew",
        UNSAVED,
    ]
