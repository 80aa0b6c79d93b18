"""What the tests of far shards share."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from upath import UPath

from en_bench.data.far_split import FarSplit
from en_bench.data.fetch import Patience
from en_bench.data.manifest import Shard
from en_bench.data.shard_cache import ShardCache

QUICK = Patience(tries=3, first_wait_s=0.01, stall_s=5)


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


def wait_for(what: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
