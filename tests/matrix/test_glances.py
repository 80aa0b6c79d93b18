"""Looking at many leases again and again: what it tells, and how much it asks of the folder."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from en_bench.files import write_json
from en_bench.matrix import glances
from en_bench.matrix.glances import Glances, Rounds
from en_bench.matrix.lease import Lease, Leases, local_holder

CELLS = [f"{number:016d}" for number in range(20)]


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    """Leases of 20 cells, every second one given back, an hour ago; nobody has touched their folders since."""
    leases = Leases(tmp_path / "leases")
    for number, cell in enumerate(CELLS):
        lease = taken(leases, cell)
        if number % 2:
            lease.give_back()
        long_ago(leases, cell)
    return leases


def taken(leases: Leases, cell: str) -> Lease:
    elsewhere = {**local_holder(), "host": "nodeB", "machine": "nodeB"}
    lease = leases.take(cell, holder=elsewhere)
    assert lease is not None
    return lease


def long_ago(leases: Leases, cell: str) -> None:
    os.utime(leases.folder / cell, (time.time() - 3600,) * 2)


@contextmanager
def requests() -> Iterator[Counter[str]]:
    """What is asked of the folder of leases, by the system call."""
    found = Counter[str]()

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(path: Any, *args: Any, **options: Any) -> Any:
            if "leases" in str(path) and ".clock" not in str(path):
                found[name] += 1
            return call(path, *args, **options)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((os, "listdir"), (os, "stat"), (io, "open")):
            patch.setattr(module, name, counted(name, getattr(module, name)))
        yield found


def test_what_has_not_changed_is_not_read_again(leases: Leases) -> None:
    looks = Glances(leases)
    with requests() as asked:
        assert [cell for cell in CELLS if looks.holder(cell)] == CELLS[::2]
    assert asked["listdir"] == asked["open"] == 20 and asked["stat"] >= 40
    with requests() as asked:
        assert [cell for cell in CELLS if looks.holder(cell)] == CELLS[::2]
    assert asked == {"stat": 30}  # of every cell's folder, and of ten leases for their signs of life
    with requests() as asked:
        assert looks.find("never leased") is None
    assert asked == {"stat": 1}


def changes(leases: Leases) -> dict[str, Callable[[str], object]]:
    def file(cell: str) -> Path:
        return max((leases.folder / cell).glob("*.json"))

    return {
        "silent": lambda cell: os.utime(file(cell), (time.time() - 1000,) * 2),
        "given back": lambda cell: write_json(file(cell), {**json.loads(file(cell).read_text()), "released": True}),
        "given back on a full disk": lambda cell: os.utime(file(cell), (0, 0)),
        "gone": lambda cell: file(cell).unlink(),
    }


@pytest.mark.parametrize("change", ["silent", "given back", "given back on a full disk", "gone"])
def test_a_change_is_seen_at_the_next_look(leases: Leases, change: str) -> None:
    looks = Glances(leases)
    assert looks.holder(CELLS[0]) is not None
    changes(leases)[change](CELLS[0])
    assert looks.holder(CELLS[0]) is None is leases.holder(CELLS[0])
    again = taken(leases, CELLS[0])
    found = looks.holder(CELLS[0])
    assert found is not None and found.number == again.number


def test_what_changes_twice_in_the_same_moment_is_seen(leases: Leases) -> None:
    """As dates are rounded, a folder may look the same after its second change."""
    looks, cell = Glances(leases), CELLS[1]
    first = taken(leases, cell)
    date = os.stat(leases.folder / cell).st_mtime_ns
    held = looks.holder(cell)
    assert held is not None and held.number == first.number
    first.give_back()
    os.utime(leases.folder / cell, ns=(date, date))
    assert looks.holder(cell) is None


def test_a_lease_that_is_being_written_is_read_again(leases: Leases) -> None:
    """Where files cannot be linked its folder does not change when its text comes."""
    looks, file = Glances(leases), leases.folder / CELLS[0] / "1.json"
    whole = file.read_text()
    file.write_text("")
    long_ago(leases, CELLS[0])
    found = looks.find(CELLS[0])
    assert found is not None and not found.readable
    file.write_text(whole)
    found = looks.find(CELLS[0])
    assert found is not None and found.readable and found.holder["host"] == "nodeB"


class Clock:
    """Visits take as long as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, took: float) -> None:
        self.now, self.took, self.visited = 1000.0, took, list[int]()
        monkeypatch.setattr(glances, "time", SimpleNamespace(monotonic=lambda: self.now))

    def visit(self, number: int) -> None:
        self.visited.append(number)
        self.now += self.took


def test_a_long_round_is_done_in_slices_for_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rounds = Clock(monkeypatch, took=0.03), Rounds[int](2.0)
    spent, began, longest, ended = 0.0, clock.now, 0.0, False
    while not ended:
        before = clock.now
        ended = rounds.go(lambda: range(100), clock.visit)
        spent, longest = spent + clock.now - before, max(longest, clock.now - before)
        clock.now += 0.01
    assert clock.visited == list(range(100)) and spent == pytest.approx(3.0)
    assert longest <= 0.1 + 0.03 and spent / (clock.now - began) < 0.11
    assert rounds.seconds_to_wait == pytest.approx(2.0, abs=0.02)
    assert not rounds.go(lambda: range(100), clock.visit)
    clock.now += 2.0
    assert rounds.go(lambda: [7], clock.visit) and clock.visited[-1] == 7


def test_a_round_that_is_denied_is_begun_anew_later(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rounds = Clock(monkeypatch, took=0.0), Rounds[int](2.0, math.inf, math.inf)

    def refuse(number: int) -> None:
        raise PermissionError(number)

    with pytest.raises(PermissionError):
        rounds.go(lambda: range(3), refuse)
    assert not rounds.go(lambda: range(3), clock.visit)
    clock.now += 2.0
    assert rounds.go(lambda: range(3), clock.visit) and clock.visited == [0, 1, 2]
