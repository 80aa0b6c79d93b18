"""The cache of a node: what it keeps, and what goes to make room."""

from __future__ import annotations

import functools
import itertools
import os
import time
from dataclasses import replace

import pytest
from upath import UPath

from en_bench.data.far_split import FarSplit
from en_bench.data.manifest import load_manifest
from en_bench.data.reading_order import Outlook, Reached
from en_bench.data.shard_cache import NoRoomError, ShardCache, gigabytes
from en_bench.data.shuffle import Shuffle
from en_bench.errors import InputError
from tests.data.far import QUICK, get, here, in_memory
from tests.images import make_split


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


def test_hostile_names_of_shards_are_refused(tmp_path):
    manifest = load_manifest(make_split(tmp_path / "train", 9))
    for name in ("..", ".in-use", ".0.part"):
        hostile = replace(manifest, folder=UPath("memory://x"), shards=(replace(manifest.shards[0], name=name),))
        with pytest.raises(InputError, match="begins with a dot"):
            FarSplit.of(hostile)
    with pytest.raises(ValueError, match="need no cache"):
        FarSplit.of(manifest)
