"""Readers through the cache of a node: right, bounded and shared, after any kill."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from en_bench.data.cached_files import CachedFiles, CacheStatistics
from en_bench.data.manifest import Manifest, load_manifest
from en_bench.data.reader import ShardReader
from en_bench.data.reading_order import ReadingOrder
from en_bench.data.shard_cache import ShardCache
from en_bench.data.shuffle import Shuffle
from en_bench.errors import InputError
from tests.data.far import QUICK, Watch, get, here, in_memory, wait_for
from tests.data.flaky_http import Fault, FlakyServer, serving
from tests.images import make_split

SHARDS = 9
SAMPLES = 90


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_split(tmp_path_factory.mktemp("far") / "train", SAMPLES, shards=SHARDS)


@pytest.fixture(scope="module")
def payloads(local: Path) -> list[bytes]:
    manifest = load_manifest(local)
    with ShardReader(manifest, manifest.load_index()) as reader:
        return [reader.read(i) for i in range(SAMPLES)]


@pytest.fixture
def server(local: Path) -> Iterator[FlakyServer]:
    with serving(local) as server:
        yield server


def shard_bytes(manifest: Manifest) -> int:
    return max(shard.bytes for shard in manifest.shards)


def far_reader(
    server: FlakyServer, folder: Path, hold: float = 100, order: ReadingOrder | None = None
) -> tuple[ShardReader, CachedFiles]:
    """A reader through a cache of `hold` shards."""
    manifest = load_manifest(server.url)
    order = order or Shuffle(tuple(shard.samples for shard in manifest.shards), seed=5, span=2)
    cache = ShardCache(folder, int(hold * shard_bytes(manifest)))
    files = CachedFiles(manifest, cache, order, ahead=False, patience=QUICK)
    return ShardReader(manifest, manifest.load_index(), files=files), files


def test_hits_misses_and_bytes_are_counted(server, tmp_path, payloads):
    reader, files = far_reader(server, tmp_path)
    assert [reader.read(i) for i in range(SAMPLES)] == payloads
    total = sum(shard.bytes for shard in reader.manifest.shards)
    found = files.statistics()
    assert (found.opened, found.missed, found.fetched) == (SHARDS, SHARDS, total) and 0 < found.waited_s < 20
    assert files.describe() == str(found)
    reader.close()
    assert [reader.read(i) for i in range(SAMPLES)] == payloads
    assert files.statistics() == replace(found, opened=2 * SHARDS)
    assert files.describe() == (
        f"cache: shards opened {SHARDS}, missed 0 (0.0 %), waited for 0.0 s, 0 GB fetched meanwhile"
    )
    line = str(CacheStatistics(120, 3, 4_500_000_000, 1.23))
    assert line == "cache: shards opened 120, missed 3 (2.5 %), waited for 1.2 s, 4.5 GB fetched meanwhile"


def test_removed_files_do_not_stay_open(server, tmp_path, payloads):
    reader, _ = far_reader(server, tmp_path, hold=2.1)
    for i in range(SAMPLES):
        assert reader.read(i) == payloads[i]
    assert sum(str(tmp_path) in path and path.endswith("(deleted)") for path in open_paths()) <= 1
    reader.close()


def open_paths() -> list[str]:
    paths = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            paths.append(os.readlink(f"/proc/self/fd/{number}"))
    return paths


class Payloads(Dataset[tuple[int, bytes]]):
    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def __getitem__(self, sample: int) -> tuple[int, bytes]:
        return sample, self.reader.read(sample)

    def __len__(self) -> int:
        return SAMPLES


@pytest.mark.parametrize(
    ("workers", "method"),
    [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)],
)
def test_a_set_larger_than_the_cache_trains(server, tmp_path, payloads, workers, method):
    reader, files = far_reader(server, tmp_path, hold=4.5)
    server.faults = {f"{shard.name}": [Fault(cut=5000), Fault(status=500)] for shard in reader.manifest.shards[::3]}
    order: list[int] = []
    loader = DataLoader(
        Payloads(reader), batch_size=None, sampler=order, num_workers=workers,
        multiprocessing_context=method, persistent_workers=workers > 0,
    )  # fmt: skip
    watch = Watch(files.cache)
    for epoch in range(3):
        order[:] = files.order.order(epoch).tolist()
        files.tell(epoch, 0)
        for sample, (i, payload) in enumerate(loader):
            assert i == order[sample] and payload == payloads[i]
            files.tell(epoch, sample + 1)
    most = watch.end()
    assert 0 < most <= files.cache.bound
    found = files.statistics()
    assert found.missed >= SHARDS + 2 * (SHARDS - 4), "it cannot have held all"
    assert found.missed <= 3 * SHARDS * max(1, workers)
    if not workers:
        assert found.fetched <= (3 * SHARDS - 2 * 2) * shard_bytes(reader.manifest), (
            "some were kept over each epoch's end"
        )
    del loader
    reader.close()


def read_all(files: CachedFiles, manifest: Manifest, order: Sequence[int], queue: multiprocessing.Queue[bytes]) -> None:
    with ShardReader(manifest, manifest.load_index(), files=files) as reader:
        digest = hashlib.sha256(b"".join(payload for _, payload in sorted((i, reader.read(i)) for i in order)))
    queue.put(digest.digest())


def test_processes_share_a_cache_and_fetch_each_shard_once(server, tmp_path, payloads):
    server.seconds = 0.05
    _, files = far_reader(server, tmp_path)
    manifest = load_manifest(server.url)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    orders = [range(SAMPLES), range(SAMPLES), range(SAMPLES - 1, -1, -1)]
    children = [context.Process(target=read_all, args=(files, manifest, order, queue)) for order in orders]
    for child in children:
        child.start()
    expected = hashlib.sha256(b"".join(payloads)).digest()
    assert [queue.get(timeout=60) for _ in children] == [expected] * 3
    for child in children:
        child.join(20)
    assert {name: count for name, count in server.requests.items() if name.endswith(".tar")} == {
        shard.name: 1 for shard in manifest.shards
    }
    found = files.statistics()
    assert found.fetched == sum(shard.bytes for shard in manifest.shards)
    assert found.opened == 3 * SHARDS and found.missed >= SHARDS


def test_a_pickled_copy_reads_and_fetches_nothing_ahead(server, tmp_path, payloads):
    reader, _ = far_reader(server, tmp_path)
    again = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own bytes
    assert [again.read(i) for i in range(SAMPLES)] == payloads
    assert again.files.prefetcher_pid is None


def fetch_one(files: CachedFiles) -> None:
    os.close(files.open(0))


@pytest.mark.parametrize("at", [0, 1, 10_000])
def test_another_takes_over_from_a_killed_process(server, tmp_path, payloads, at):
    reader, files = far_reader(server, tmp_path)
    name = reader.manifest.shards[0].name
    server.faults[name] = [Fault(stall=at)]
    context = multiprocessing.get_context("fork")
    child = context.Process(target=fetch_one, args=(files,))
    child.start()
    part = tmp_path / files.split.digest[:16] / ".0.part"
    wait_for(lambda: server.requests[name] == 1 and part.exists())
    time.sleep(0.1)
    waiting = context.Process(target=fetch_one, args=(files,))
    waiting.start()
    time.sleep(0.1)
    assert files.cache.present(files.split) == set(), "nothing half-done is served"
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)
    waiting.join(20)
    assert waiting.exitcode == 0 and not part.exists()
    assert [reader.read(i) for i in range(SAMPLES)] == payloads
    assert server.requests[name] == 2


def test_what_a_killed_process_left_makes_room(server, tmp_path):
    """Its room is not lost, though nobody asks for that shard."""
    reader, files = far_reader(server, tmp_path, hold=1.5)
    folder = tmp_path / files.split.digest[:16]
    (folder / ".3.part").write_bytes(b"x" * shard_bytes(reader.manifest))
    reader.read(0)
    assert not (folder / ".3.part").exists() and files.cache.total() <= files.cache.bound


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(after=st.floats(0, 0.4))
def test_killed_at_any_moment_nothing_wrong_is_served(tmp_path_factory, local, payloads, after):
    with serving(local) as server:
        server.seconds = 0.03
        reader, files = far_reader(server, tmp_path_factory.mktemp("killed"), hold=3.5)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=read_all, args=(files, reader.manifest, range(SAMPLES), queue))
        child.start()
        time.sleep(after)
        os.kill(child.pid, signal.SIGKILL)
        child.join(10)
        for shard in files.cache.present(files.split):
            path = files.cache.folder / files.split.digest[:16] / files.split.shards[shard].name
            assert hashlib.sha256(path.read_bytes()).hexdigest() == files.split.shards[shard].sha256
        assert [reader.read(i) for i in range(SAMPLES)] == payloads
        assert files.cache.total() <= files.cache.bound
        reader.close()


def test_a_shard_that_cannot_be_had_is_named(server, tmp_path):
    reader, files = far_reader(server, tmp_path)
    name = reader.manifest.shards[0].name
    server.always[name] = Fault(corrupt=True)
    with pytest.raises(InputError, match=rf"^{server.url}/{name}: sha256 .* in 3 downloads"):
        reader.read(0)
    server.always[name] = Fault(status=500)
    with pytest.raises(InputError, match=rf"^{server.url}/{name}: 500.*after 3 tries"):
        reader.read(0)
    assert here(files.cache) == set() and files.cache.total() == 0


def test_a_bound_below_what_is_read_at_a_time_is_said(server, tmp_path, capfd):
    far_reader(server, tmp_path, hold=2.5)
    assert capfd.readouterr().err == ""
    far_reader(server, tmp_path, hold=1.5)
    said = capfd.readouterr().err
    assert said.startswith(f"{server.url}/: 0.000") and "use --data.cache_gb 0.000" in said and said.count("\n") == 1


def test_a_cache_that_was_deleted_is_filled_again(server, tmp_path, payloads):
    reader, files = far_reader(server, tmp_path / "cache", hold=4)
    for i in range(SAMPLES):
        if i in (0, 25, 60):
            shutil.rmtree(tmp_path / "cache")
        assert reader.read(i) == payloads[i]
    assert files.cache.total() > 0
    other = ShardCache(tmp_path / "cache", files.cache.bound)
    split = in_memory("other", [files.cache.bound // 2])
    other.begin_use(split)
    get(other, split, 0)
    assert files.cache.present(files.split), "it counts as used again"
