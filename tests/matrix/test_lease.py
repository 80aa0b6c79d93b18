import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from en_bench import files
from en_bench.files import write_json
from en_bench.lease_guard import LEASE, LeaseLost
from en_bench.matrix.lease import Lease, Leases
from en_bench.matrix.processes import Condition, condition, this_machine, this_process

CELL = "0123456789abcdef"


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "leases", beat_seconds=0.05, expires_seconds=60)


def taken(leases: Leases, **options: Any) -> Lease:
    lease = leases.take(CELL, **options)
    assert lease is not None
    return lease


def test_one_holds_a_cell_and_numbers_rise(leases: Leases) -> None:
    first = taken(leases)
    assert first.number == 1 and leases.take(CELL) is None
    found = leases.holder(CELL)
    assert found is not None and found.told() == f"process {os.getpid()} on {first.holder['host']}"
    first.give_back()
    assert leases.holder(CELL) is None
    second = taken(leases)
    assert second.number == 2
    assert [path.name for path in (leases.folder / CELL).iterdir()] == ["2.json"]
    assert taken(replace(leases, folder=leases.folder.with_name("other")), after=4).number == 5


def test_a_given_back_lease_is_lost_to_nobody(leases: Leases) -> None:
    first = taken(leases)
    first.give_back()
    second = taken(leases)
    first.give_back()  # of a holder that was long asleep
    assert leases.holder(CELL) is not None
    second.require()
    with pytest.raises(LeaseLost, match=r"1\.json was taken over"):
        first.require()


def test_what_is_entered_beats_and_is_given_back(leases: Leases) -> None:
    lease = taken(leases)
    with lease:
        os.utime(lease.path, (0, 0))
        deadline = time.monotonic() + 20
        while lease.path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert os.environ[LEASE] == f"{lease.token}:{lease.path}"
    assert LEASE not in os.environ
    found = leases.find(CELL)
    assert found is not None and found.released


@pytest.mark.parametrize(("machine", "silent", "held"), [("other", 0, True), ("other", 100, False), (None, 100, True)])
def test_a_holder_that_is_silent_for_too_long_is_dead_unless_it_is_seen_to_run(
    leases: Leases, machine: str | None, silent: float, held: bool
) -> None:
    """That of this machine lives: its clock has made a step."""
    holder = {"kind": "local", "host": "elsewhere", "pid": 1} | ({"machine": machine} if machine else {})
    lease = taken(leases, holder=holder if machine else None)
    then = time.time() - silent
    os.utime(lease.path, (then, then))
    assert (leases.holder(CELL) is not None) is held
    assert (leases.take(CELL) is None) is held


def test_silence_is_told_by_the_clock_that_dates_the_files(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(leases)
    monkeypatch.setattr("en_bench.matrix.lease.time.time", lambda: 1e12)  # our own clock is wrong by millennia
    assert leases.holder(CELL) is not None


def test_a_holder_of_a_kind_that_is_not_known_here_lives(leases: Leases) -> None:
    taken(leases, holder={"kind": "batch", "told": "job 7"})
    assert leases.take(CELL) is None
    assert replace(leases, judges={"batch": lambda found: False}).take(CELL) is not None


def test_a_queued_lease_is_adopted_by_who_has_its_token(leases: Leases) -> None:
    queued = taken(leases, holder={"kind": "batch", "name": "job 7"})
    assert leases.adopt(CELL, "another token") is None
    adopted = leases.adopt(CELL, queued.token)
    assert adopted is not None and (adopted.number, adopted.first) == (2, 1)
    with pytest.raises(LeaseLost):
        queued.require()
    assert adopted.holder["kind"] == "batch" and adopted.holder["name"] == "job 7" and "process" in adopted.holder
    again = leases.adopt(CELL, queued.token)  # a job that was queued again, while its last run is still at work
    assert again is not None and (again.number, again.first) == (3, 1)
    with pytest.raises(LeaseLost):
        adopted.require()
    again.require()
    again.give_back()
    assert leases.adopt(CELL, queued.token) is None


def _holding(folder: Path, ready: Any) -> None:
    lease = Leases(folder, beat_seconds=0.05, expires_seconds=1.0).take(CELL)
    assert lease is not None
    with lease:
        for number in range(10**9):
            write_json(folder / "written.json", {"number": number})
            ready.set()
            time.sleep(0.01)


@pytest.fixture
def holder(leases: Leases) -> Any:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=_holding, args=(leases.folder, ready))
    child.start()
    assert ready.wait(60)
    yield child
    child.kill()
    child.join(20)


def test_a_killed_holder_is_dead_at_once(leases: Leases, holder: Any) -> None:
    assert leases.take(CELL) is None
    holder.kill()
    holder.join(20)
    assert taken(leases).number == 2


def test_a_stopped_holder_loses_its_lease_and_writes_nothing_when_it_wakes_up(leases: Leases, holder: Any) -> None:
    os.kill(holder.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 30
    while (lease := leases.take(CELL)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = (leases.folder / "written.json").read_bytes()
    os.kill(holder.pid, signal.SIGCONT)
    holder.join(30)
    assert holder.exitcode == 1  # LeaseLost, in its traceback
    assert (leases.folder / "written.json").read_bytes() == before
    lease.require()


def _taking(folder: Path, start: Any, won: Any) -> None:
    leases = Leases(folder)
    start.wait(60)
    for number in range(100):
        lease = leases.take(f"{number:016d}")
        if lease is not None:
            won.put(number)
    start.wait(60)  # what a process holds that has ended is free


def test_of_several_processes_one_takes_a_cell(leases: Leases) -> None:
    context = multiprocessing.get_context("spawn")
    start, won = context.Barrier(4), context.Queue()
    children = [context.Process(target=_taking, args=(leases.folder, start, won)) for _ in range(4)]
    for child in children:
        child.start()
    numbers = sorted(won.get(timeout=60) for _ in range(100))
    for child in children:
        child.join(60)
    assert numbers == list(range(100)) and won.empty()


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_created_once_also_where_none_can_be_linked(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    files.create(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "a", b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"first"


def test_a_full_disk_leaves_no_half_of_a_file_where_none_can_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    calls = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.create(tmp_path / "a", b"first")
    assert list(tmp_path.iterdir()) == []


def test_a_link_whose_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link: Callable[..., None] = os.link

    def made_but_denied(source: str, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", made_but_denied)
    files.create(tmp_path / "a", b"first")
    assert (tmp_path / "a").read_bytes() == b"first"


def test_a_lease_of_which_half_is_written_is_held(leases: Leases) -> None:
    lease = taken(leases)
    lease.path.write_text(json.dumps(lease.to_json())[:40])
    assert leases.take(CELL) is None
    found = leases.holder(CELL)
    assert found is not None and f"unreadable: {lease.path}" in found.told()


def test_a_full_disk_keeps_no_lease(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lease = taken(leases)
    monkeypatch.setattr("en_bench.matrix.lease.write_json", full)
    lease.give_back()
    assert leases.holder(CELL) is None
    monkeypatch.undo()
    assert taken(leases).number == 2  # a number is never used again
    with pytest.raises(LeaseLost):
        lease.require()


def test_what_could_not_be_given_back_is_given_back_later(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file server is away for a moment: as long as this process runs, its lease would seem held."""

    def away(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    lease = taken(leases)
    with monkeypatch.context() as patched:
        patched.setattr("en_bench.matrix.lease.write_json", away)
        patched.setattr("en_bench.matrix.lease.os.utime", away)
        lease.give_back()
    assert leases.holder(CELL) is not None
    assert leases.take("another cell") is not None
    assert leases.holder(CELL) is None and not leases.unreturned


def test_a_lease_that_a_command_has_cleaned_from_the_environment_is_given_back(leases: Leases) -> None:
    with taken(leases):
        del os.environ[LEASE]
    assert leases.holder(CELL) is None


def test_who_comes_late_with_a_number_that_was_used_has_no_lease(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(leases).give_back()
    seen = leases.find(CELL)
    taken(leases).give_back()
    third = taken(leases)
    with monkeypatch.context() as patch:
        patch.setattr(Leases, "find", lambda *_: seen)
        assert leases.take(CELL) is None
    third.require()
    assert [path.name for path in third.path.parent.iterdir()] == ["3.json"]


def test_another_lease_of_the_same_number_is_not_ours(leases: Leases) -> None:
    lease = taken(leases)
    write_json(lease.path, {**lease.to_json(), "token": "another"})
    with pytest.raises(LeaseLost):
        lease.require()


def test_a_listing_from_memory_hides_no_loss(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    first = taken(leases)
    os.utime(first.path, (0, 0))
    second = taken(leases)
    for module in ("en_bench.lease_guard", "en_bench.matrix.lease"):
        monkeypatch.setattr(f"{module}.numbers", lambda folder: [1])
    with pytest.raises(LeaseLost):
        first.require()
    found = leases.holder(CELL)
    assert found is not None and "1.json" in found.told()  # somebody has a higher one
    assert leases.take(CELL) is None and leases.adopt(CELL, second.token) is None


def test_remains_of_kills_go_and_what_is_being_written_stays(leases: Leases) -> None:
    first = taken(leases)
    old, new = (first.path.with_name(f".1.json.{name}") for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    first.give_back()
    taken(leases)
    assert new.exists() and not old.exists()
    assert [path.name for path in leases.folder.iterdir() if path.is_file()] == [f".clock.{os.getuid()}"]


def test_a_process_that_proc_hides_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    mine = this_process()
    another = [mine[0], "1"]
    assert (condition(mine), condition(another)) == (Condition.RUNS, Condition.GONE)
    assert condition([]) is condition(None) is Condition.HIDDEN
    monkeypatch.setattr(os, "kill", refuse)  # it is another user's
    assert (condition(mine), condition(another)) == (Condition.RUNS, Condition.GONE)
    monkeypatch.setattr("en_bench.matrix.processes._read", lambda path: "")  # mounted with hidepid
    assert condition(mine) is Condition.HIDDEN


def test_where_proc_hides_a_process_silence_decides(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = taken(leases)
    monkeypatch.setattr("en_bench.matrix.processes._read", lambda path: "")
    lease.holder = {**lease.holder, "machine": this_machine()}
    assert leases.holder(CELL) is not None
    os.utime(lease.path, (time.time() - 100,) * 2)
    assert leases.holder(CELL) is None


def test_a_copied_machine_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_machine()
    monkeypatch.setattr(socket, "gethostname", lambda: "a-copy")
    assert this_machine.__wrapped__() != here


STARTS_ITSELF = """
import subprocess, sys, time
from en_bench.tied import end_with_parent, tie
end_with_parent()
if sys.argv[1] == "parent":
    with tie() as tied:
        subprocess.Popen([sys.executable, __file__, "child"], pass_fds=tied.descriptors, env=tied.environment,
                         start_new_session=True)
        time.sleep(600)
elif sys.argv[1] == "child":
    subprocess.Popen([sys.executable, __file__, "grandchild"])
    time.sleep(600)
else:
    print("ready", flush=True)
    time.sleep(600)
"""


def test_what_is_tied_ends_with_a_killed_parent_and_so_does_what_it_started(tmp_path: Path) -> None:
    script = tmp_path / "starts_itself.py"
    script.write_text(STARTS_ITSELF)
    parent = subprocess.Popen([sys.executable, str(script), "parent"], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    parent.kill()
    assert parent.stdout.read() == b""  # which comes when the last process that has the other end has ended
    parent.wait(20)
