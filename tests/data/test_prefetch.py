"""Shards fetched ahead, by a process that is there once per node and as long as it is needed."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from en_bench.data.cached_files import CachedFiles
from en_bench.data.manifest import Manifest, load_manifest
from en_bench.data.reader import ShardReader
from en_bench.data.reading_order import NaturalOrder, ReadingOrder
from en_bench.data.shard_cache import ShardCache
from en_bench.data.shuffle import Shuffle
from tests.conftest import REPO
from tests.data.far import QUICK, Watch, wait_for
from tests.data.flaky_http import Fault, FlakyServer, serving
from tests.images import make_split

SHARDS = 10
SAMPLES = 40


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_split(tmp_path_factory.mktemp("ahead") / "train", SAMPLES, shards=SHARDS)


@pytest.fixture
def server(local: Path) -> Iterator[FlakyServer]:
    with serving(local) as server:
        yield server


def counts(manifest: Manifest) -> tuple[int, ...]:
    return tuple(shard.samples for shard in manifest.shards)


@contextlib.contextmanager
def far_files(
    server: FlakyServer, folder: Path, order: ReadingOrder | None = None, hold: float = 100, ahead: bool = True
) -> Iterator[CachedFiles]:
    manifest = load_manifest(server.url)
    cache = ShardCache(folder, int(hold * max(shard.bytes for shard in manifest.shards)))
    files = CachedFiles(manifest, cache, order or NaturalOrder(counts(manifest)), ahead, QUICK)
    try:
        yield files
    finally:
        files.close()


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def shard_requests(server: FlakyServer) -> dict[str, int]:
    return {name: count for name, count in server.requests.items() if name.endswith(".tar")}


def test_the_process_is_light():
    code = (
        "import sys, en_bench.data.prefetch; print(sorted({'torch', 'lightning', 'PIL', 'aiohttp'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"


def test_all_is_fetched_ahead_where_there_is_room_and_close_ends_it(server, tmp_path):
    server.faults = {f"toy-train-00000{i}.tar": [Fault(cut=100), Fault(status=500)] for i in range(2)}
    with far_files(server, tmp_path) as files:
        files.tell(0, 0)
        pid = files.prefetcher_pid
        assert pid is not None
        wait_for(lambda: len(files.cache.present(files.split)) == SHARDS)
        for shard in range(SHARDS):
            os.close(files.open(shard))
        assert (files.statistics().opened, files.statistics().missed) == (SHARDS, 0)
        assert alive(pid)
    wait_for(lambda: not alive(pid))
    assert sum(shard_requests(server).values()) == SHARDS + 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["natural", "shuffled"])
def test_what_is_needed_next_is_fetched_and_nothing_sooner_goes(server, tmp_path, kind):
    manifest = load_manifest(server.url)
    order = NaturalOrder(counts(manifest)) if kind == "natural" else Shuffle(counts(manifest), seed=1, span=1)
    with far_files(server, tmp_path, order, hold=4.2) as files:
        watch = Watch(files.cache)
        line = [group[0] for epoch in range(3) for group in order.groups(epoch)]
        per_epoch = [0]
        for group in order.groups(0):
            per_epoch.append(per_epoch[-1] + order.counts[group[0]])
        for passed in range(SHARDS):
            files.tell(0, per_epoch[passed])
            wait_for(lambda passed=passed: files.cache.present(files.split) == set(line[passed : passed + 4]))
        asked = shard_requests(server)
        time.sleep(1.3)  # a look later
        assert shard_requests(server) == asked, "it rests when there is nothing to do"
        assert watch.end() <= files.cache.bound
        windows = [set(), *(set(line[passed : passed + 4]) for passed in range(SHARDS))]
        entered = [len(later - earlier) for earlier, later in itertools.pairwise(windows)]
        assert sum(asked.values()) == sum(entered), "nothing is fetched but what comes into view"


def read_slowly(files: CachedFiles, manifest: Manifest, seconds: float) -> None:
    with ShardReader(manifest, manifest.load_index(), files=files) as reader:
        for step, sample in enumerate(files.order.order(0)):  # type: ignore[attr-defined]
            reader.read(int(sample))
            files.tell(0, step + 1)
            time.sleep(seconds)


@pytest.mark.slow
def test_a_slow_server_is_hardly_waited_for(server, tmp_path):
    manifest = load_manifest(server.url)
    order = Shuffle(counts(manifest), seed=2, span=1)
    server.seconds = 0.12
    with far_files(server, tmp_path / "ahead", order, hold=4.2) as files:
        files.tell(0, 0)
        wait_for(lambda: len(files.cache.present(files.split)) >= 3)
        read_slowly(files, manifest, seconds=0.04)
        assert files.statistics().missed <= 1
    with far_files(server, tmp_path / "alone", order, hold=4.2, ahead=False) as files:
        read_slowly(files, manifest, seconds=0)
        assert files.statistics().missed == SHARDS, "what the other is measured against"


@pytest.mark.slow
def test_one_process_fetches_ahead_for_all_ranks_and_another_takes_over(server, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("en_bench.data.prefetch._LOOK_S", 0.05)
    server.seconds = 0.2
    manifest = load_manifest(server.url)
    orders = [Shuffle(counts(manifest), seed=3, span=1) for _ in range(2)]
    with far_files(server, tmp_path, orders[0]) as one, far_files(server, tmp_path, orders[1]) as two:
        one.tell(0, 0)
        first = one.prefetcher_pid
        assert first is not None
        wait_for(lambda: bool(shard_requests(server)))
        two.tell(0, 0)
        assert two.prefetcher_pid is None
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: one.prefetcher_pid is None)
        one.tell(0, 1)
        assert one.prefetcher_pid is None, "what died once is not started again and again"
        assert "fetching shards ahead ended with code -9: they are fetched when needed" in capfd.readouterr().err

        def taken_over() -> bool:
            two.tell(0, 1)
            return two.prefetcher_pid is not None

        wait_for(taken_over)
        wait_for(lambda: len(two.cache.present(two.split)) == SHARDS)
        assert alive(two.prefetcher_pid)
        assert all(count <= 2 for count in shard_requests(server).values())


@pytest.mark.slow
def test_two_that_start_at_the_same_moment_leave_one(server, tmp_path, monkeypatch):
    monkeypatch.setattr("en_bench.data.prefetch._LOOK_S", 0.05)
    with far_files(server, tmp_path) as one, far_files(server, tmp_path) as two:
        one.tell(0, 0)
        two.tell(0, 0)  # before the first has the lock
        wait_for(lambda: (one.prefetcher_pid is None) != (two.prefetcher_pid is None))
        wait_for(lambda: len(one.cache.present(one.split)) == SHARDS)
        assert sum(shard_requests(server).values()) == SHARDS


def test_what_cannot_be_fetched_ahead_is_said_and_left_to_who_needs_it(server, tmp_path, capfd):
    name = "toy-train-000001.tar"
    server.always[name] = Fault(status=404)
    with far_files(server, tmp_path) as files:
        files.tell(0, 0)
        wait_for(lambda: len(files.cache.present(files.split)) == SHARDS - 1)
        time.sleep(0.2)
        assert server.requests[name] == 1
    assert f"fetching ahead, which pauses for a minute: {server.url}/{name}: it is not there" in capfd.readouterr().err


@contextlib.contextmanager
def training(server: FlakyServer, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.data.training_far", server.url, str(folder), *options]
    process = subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def said(process: subprocess.Popen[str], what: str) -> int:
    assert process.stdout is not None
    word, pid = process.stdout.readline().split()
    assert word == what
    return int(pid)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_parent(server, tmp_path, how):
    """Though a child that was forked later holds the other end of its pipe."""
    server.seconds = 0.3
    with training(server, tmp_path, "--fork") as process:
        child = said(process, "child")
        pid = said(process, "prefetcher")
        try:
            assert alive(pid)
            os.kill(process.pid, how)
            process.wait(10)
            wait_for(lambda: not alive(pid), seconds=5)
            assert alive(child), "so the pipe was open"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_a_training_goes_on_without_it(server, tmp_path):
    hold = 3 * max(shard.bytes for shard in load_manifest(server.url).shards)
    with training(server, tmp_path, "--bound", str(hold), "--seconds", "0.01") as process:
        pid = said(process, "prefetcher")
        os.kill(pid, signal.SIGKILL)
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["prefetcher", "None"]
        asked = sum(shard_requests(server).values())
        wait_for(lambda: sum(shard_requests(server).values()) > asked + 5)
        assert process.poll() is None
