"""The cache of a node: bounded, shared, right after any kill; and readers that read through it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset
from upath import UPath

from en_bench.data.cached_files import CachedFiles, CacheStatistics
from en_bench.data.far_split import FarSplit
from en_bench.data.fetch import Patience
from en_bench.data.manifest import Manifest, Shard, load_manifest
from en_bench.data.reader import ShardReader
from en_bench.data.reading_order import NaturalOrder, Outlook, Reached, ReadingOrder
from en_bench.data.shard_cache import NoRoomError, ShardCache, gigabytes
from en_bench.data.shuffle import Shuffle
from en_bench.errors import InputError
from tests.conftest import make_split
from tests.data.flaky_http import Fault, FlakyServer, serving

QUICK = Patience(tries=3, first_wait_s=0.01, stall_s=5)
SHARDS = 9
SAMPLES = 90


def in_memory(name: str, sizes: Sequence[int]) -> FarSplit:
    """A split of shards with random content in fsspec's memory."""
    folder = UPath(f"memory://{name}")
    shards = []
    for number, size in enumerate(sizes):
        content = np.random.default_rng(number).bytes(size)
        folder.fs.pipe_file((folder / f"{name}-{number}.tar").path, content)
        shards.append(Shard(f"{name}-{number}.tar", 1, size, hashlib.sha256(content).hexdigest()))
    return FarSplit(hashlib.sha256(name.encode()).hexdigest(), str(folder), tuple(shards))


def get(cache: ShardCache, split: FarSplit, shard: int, ahead: dict[int, int] | None = None) -> int:
    """Opens or fetches a shard, checks what is in it; the bytes fetched."""
    descriptor, fetched = cache.open(split, shard), 0
    if descriptor is None:
        descriptor, fetched = cache.fetch(split, shard, ahead or {}, QUICK)
    content = os.pread(descriptor, 2**24, 0)
    os.close(descriptor)
    assert hashlib.sha256(content).hexdigest() == split.shards[shard].sha256
    return fetched


def here(cache: ShardCache) -> set[str]:
    return {path.name for path in cache.folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


# What is needed next


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    span=st.integers(1, 5),
    epoch=st.integers(0, 3),
    fraction=st.floats(0, 1),
)
def test_the_outlook_is_what_a_walk_along_the_samples_finds(counts, span, epoch, fraction):
    order = Shuffle(tuple(counts), seed=1, span=span, block=2, window=2)
    sample = int(fraction * order.count)
    walked = [(number, shard) for number, shard in enumerate_samples(order, epoch)][sample:]
    following = enumerate_samples(order, epoch + 1)
    groups_passed = len(order.groups(epoch))
    expected: dict[int, int] = {}
    present = walked[0][0] if walked else groups_passed
    for number, shard in walked:
        expected.setdefault(shard, number - present)
    found = Outlook(order).groups_ahead(Reached(epoch, sample))
    for shard in order.groups(epoch)[present] if walked else []:
        expected[shard] = 0  # all of the present group, though some may be done with
    for number, shard in following:
        expected.setdefault(shard, groups_passed - present + number)
    assert found == expected
    assert list(found.values()) == sorted(found.values()), "in the order of need"


def enumerate_samples(order: Shuffle, epoch: int) -> list[tuple[int, int]]:
    """(group, shard) per sample, in the order of reading, told from the samples themselves."""
    shard_of = np.repeat(np.arange(len(order.counts)), order.counts)
    group_of = {shard: number for number, group in enumerate(order.groups(epoch)) for shard in group}
    return [(group_of[shard], shard) for shard in map(int, shard_of[order.order(epoch)])]


def test_evaluation_reads_shards_as_they_lie():
    order = NaturalOrder((3, 0, 2))
    assert Outlook(order).groups_ahead(Reached(0, 0)) == {0: 0, 2: 1}
    assert Outlook(order).groups_ahead(Reached(0, 3)) == {2: 0, 0: 1}
    assert Outlook(order).groups_ahead(Reached(0, 5)) == {0: 0, 2: 1}


def fewest_fetches(groups: list[frozenset[int]], capacity: int) -> int:
    """By trying every way to keep shards: each group must lie in the cache as a whole when it is read."""

    @functools.cache
    def from_here(number: int, held: frozenset[int]) -> int:
        if number == len(groups):
            return 0
        missing = groups[number] - held
        spare = sorted(held - groups[number])
        room = capacity - len(groups[number])
        kept = max(0, min(room, len(spare)))
        return len(missing) + min(
            from_here(number + 1, groups[number] | frozenset(choice)) for choice in itertools.combinations(spare, kept)
        )

    return from_here(0, frozenset())


@pytest.mark.parametrize(
    ("shards", "span", "capacity"), [(5, 1, 1), (6, 1, 2), (6, 1, 4), (7, 2, 3), (6, 2, 4), (7, 3, 5), (5, 1, 5)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_way_of_keeping_shards_fetches_fewer(tmp_path, shards, span, capacity, seed):
    split = in_memory(f"belady{shards}", [100] * shards)
    order = Shuffle((1,) * shards, seed, span)
    cache = ShardCache(tmp_path, capacity * 100)
    cache.begin_use(split)
    outlook, fetched, groups = Outlook(order), 0, []
    for epoch in range(4):
        sample = 0
        for group in order.groups(epoch):
            groups.append(frozenset(group))
            for shard in group:
                fetched += get(cache, split, shard, outlook.groups_ahead(Reached(epoch, sample))) // 100
                assert cache.total() <= cache.bound
            sample += len(group)
    assert fetched == fewest_fetches(groups, capacity)


# Making room


def test_what_goes_first(tmp_path):
    cache = ShardCache(tmp_path, 10_000)
    unused, other, own = (in_memory(name, [1000] * count) for name, count in (("un", 3), ("ot", 3), ("ow", 8)))
    in_use = cache.begin_use(unused)
    for split in (other, own):
        cache.begin_use(split)
    for split in (other, own, unused):
        for shard in range(3):
            get(cache, split, shard)
            time.sleep(0.01)  # a file's time is as coarse as the kernel's ticks
    for split, shard in ((unused, 0), (other, 0)):  # used again: no longer the ones used longest ago
        get(cache, split, shard)
    os.close(in_use)
    cache.bound = 9000
    ahead = {0: 0, 1: 2, 2: 1, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0}
    gone = []
    for shard in (3, 4, 5, 6, 7):
        before = here(cache)
        get(cache, own, shard, ahead)
        gone += sorted(before - here(cache))
    assert gone == ["un-1.tar", "un-2.tar", "un-0.tar", "ow-1.tar", "ow-2.tar"]
    cache.bound = 6000
    with pytest.raises(NoRoomError):  # not at the price of others in use, nor of what comes first
        cache.reserve_ahead(own, 1, ahead)
    before = here(cache)
    get(cache, own, 1, ahead)
    assert before - here(cache) == {"ot-1.tar", "ot-2.tar", "ot-0.tar", "ow-0.tar"}
    assert not (tmp_path / unused.digest[:16]).exists()


def fetch_ahead(cache: ShardCache, split: FarSplit, shard: int, ahead: dict[int, int]) -> bool:
    reservation = cache.reserve_ahead(split, shard, ahead)
    if reservation is not None:
        reservation.fetch(QUICK)
    return reservation is not None


def test_fetching_ahead_takes_room_from_what_is_needed_later_only(tmp_path):
    split = in_memory("later", [100] * 4)
    cache = ShardCache(tmp_path, 200)
    cache.begin_use(split)
    ahead = {0: 0, 1: 1, 2: 2, 3: 3}
    assert fetch_ahead(cache, split, 0, ahead) and fetch_ahead(cache, split, 3, ahead)
    assert not fetch_ahead(cache, split, 3, ahead), "it is here"
    assert fetch_ahead(cache, split, 1, ahead) and here(cache) == {"later-0.tar", "later-1.tar"}
    with pytest.raises(NoRoomError):
        fetch_ahead(cache, split, 2, ahead)
    assert here(cache) == {"later-0.tar", "later-1.tar"}


def test_who_fetches_ahead_leaves_what_another_is_at(tmp_path):
    split = in_memory("busy", [100] * 2)
    cache = ShardCache(tmp_path, 200)
    cache.begin_use(split)
    first = cache.reserve_ahead(split, 0, {})
    assert first is not None and cache.total() == 100, "its room is kept from the beginning"
    assert cache.reserve_ahead(split, 0, {}) is None
    first.fetch(QUICK)
    assert get(cache, split, 0) == 0


def test_room_is_not_made_where_it_would_not_do(tmp_path):
    split = in_memory("sizes", [100, 300, 500])
    cache = ShardCache(tmp_path, 500)
    cache.begin_use(split)
    for shard in (0, 1):
        get(cache, split, shard)
    with pytest.raises(NoRoomError):
        fetch_ahead(cache, split, 2, {1: 0, 2: 1, 0: 2})
    assert here(cache) == {"sizes-0.tar", "sizes-1.tar"}, "removing the first alone would have been for nothing"


def test_files_of_others_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_bytes(b"x" * 5000)
    for name in ("photos", "0123456789abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"x" * 5000)
    split = in_memory("polite", [100] * 3)
    cache = ShardCache(tmp_path, 200)
    cache.begin_use(split)
    for shard in range(3):
        get(cache, split, shard)
    assert {"thesis.tex", "a.jpg"} < here(cache) and cache.total() == 200


@pytest.mark.parametrize("content", [b"", b"x" * 99, b"x" * 101])
def test_a_file_of_the_wrong_size_is_fetched_again(tmp_path, content):
    split = in_memory("wrong", [100])
    cache = ShardCache(tmp_path, 150)
    cache.begin_use(split)
    get(cache, split, 0)
    (tmp_path / split.digest[:16] / "wrong-0.tar").write_bytes(content)
    assert cache.present(split) == set()
    assert get(cache, split, 0) == 100


def test_a_shard_larger_than_the_bound_names_the_size_to_use(tmp_path):
    split = in_memory("large", [123_456_789 // 1000])
    cache = ShardCache(tmp_path, 100_000)
    cache.begin_use(split)
    with pytest.raises(
        InputError, match=r"^memory:/.*large-0.tar: its 123456 bytes do not fit .* --data.cache_gb 0.000124"
    ):
        cache.fetch(split, 0, {})
    assert float(gigabytes(123_456)) * 1e9 >= 123_456 and gigabytes(50_000_000_000) == "50"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/x: Not a directory: choose a folder for --data.cache"):
        ShardCache(tmp_path / "file" / "x", 100).begin_use(in_memory("any", [1]))


def test_a_home_folder_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ShardCache("~/x", 100).folder == tmp_path / "x"


# Through a reader


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
    assert files.describe() == (f"cache: {SHARDS} shards opened, 0 missed (0.0 %), 0.0 s waited, 0 GB fetched")
    line = str(CacheStatistics(120, 3, 4_500_000_000, 1.23))
    assert line == "cache: 120 shards opened, 3 missed (2.5 %), 1.2 s waited, 4.5 GB fetched"


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


class Watch:
    """Looks at a cache's size all the time."""

    def __init__(self, cache: ShardCache) -> None:
        self._cache, self._most, self._ended = cache, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            self._most = max(self._most, self._cache.total())

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._most


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


def wait_for(what: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


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
@settings(max_examples=12, deadline=None)
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


def test_hostile_names_of_shards_are_refused(local, tmp_path):
    manifest = load_manifest(local)
    for name in ("..", ".in-use", ".0.part"):
        hostile = replace(manifest, folder=UPath("memory://x"), shards=(replace(manifest.shards[0], name=name),))
        with pytest.raises(InputError, match="begins with a dot"):
            FarSplit.of(hostile)
    with pytest.raises(ValueError, match="need no cache"):
        FarSplit.of(manifest)
