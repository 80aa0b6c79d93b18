"""Shards behind a URL as a reader opens them: from the node's cache, fetched when they are missing."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch.utils.data import get_worker_info

from en_bench.data.far_split import FarSplit
from en_bench.data.fetch import PATIENT, Patience
from en_bench.data.manifest import Manifest
from en_bench.data.places import shown
from en_bench.data.prefetch import Prefetcher
from en_bench.data.reading_order import Outlook, Reached, ReadingOrder
from en_bench.data.shard_cache import ShardCache, gigabytes

_SLOTS = 256  # one per worker and one for the rank itself: nobody waits for anybody to count


@dataclass(frozen=True)
class CacheStatistics:
    """What reading through the cache has cost, over a rank and its workers.

    Attributes:
        opened: shards that were opened, by each worker for itself.
        missed: those of them that were not there.
        fetched: bytes that were fetched for them; the others waited for another process that was at it.
        waited_s: seconds from a miss to its end.
    """

    opened: int = 0
    missed: int = 0
    fetched: int = 0
    waited_s: float = 0.0

    def since(self, earlier: CacheStatistics) -> CacheStatistics:
        """What was added after `earlier`."""
        return CacheStatistics(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))

    def __str__(self) -> str:
        rate = 100 * self.missed / max(1, self.opened)
        return (
            f"cache: shards opened {self.opened}, missed {self.missed} ({rate:.1f} %), "
            f"waited for {self.waited_s:.1f} s, {self.fetched / 1e9:.3g} GB fetched meanwhile"
        )


class CachedFiles:
    """`ShardFiles` of a split that lies behind a URL.

    May be inherited by forked workers or pickled for others: all count into the same statistics and know how far the
    run has read. Only the process that made it fetches ahead.

    Args:
        manifest: of the split, loaded from a file.
        cache: shared by the processes of a node.
        order: in which the shards are read: the training's Shuffle, or a NaturalOrder.
        ahead: whether a process of its own fetches shards before they are needed.
        patience: with the source.

    Raises InputError if the cache's folder cannot be written.
    """

    def __init__(
        self,
        manifest: Manifest,
        cache: ShardCache,
        order: ReadingOrder,
        ahead: bool = True,
        patience: Patience = PATIENT,
    ) -> None:
        self.cache, self.order, self.patience = cache, order, patience
        self.split = FarSplit.of(manifest)
        self._counters = torch.zeros(_SLOTS, 4, dtype=torch.float64).share_memory_()  # type: ignore[no-untyped-call]
        self._reached = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._described = CacheStatistics()
        self._use: int | None = None
        self._prefetcher: Prefetcher | None = None
        self._begin()
        if ahead:
            self._prefetcher = Prefetcher(cache, self.split, order, patience)
        self._warn_of_small_bound()

    def tell(self, epoch: int, sample: int) -> None:
        """Says that `sample` samples of `epoch` have been used over all ranks. For each step, and before the first.

        By this the cache knows what to keep and what to fetch next; whatever is told, samples are right.
        """
        self._reached[0], self._reached[1] = epoch, sample
        if self._prefetcher is not None and os.getpid() == self._owner:
            self._prefetcher.tell(Reached(epoch, sample))

    def open(self, shard: int) -> int:
        """A descriptor of the shard at this position in the manifest, which the caller closes.

        Raises InputError if it is missing here and cannot be had.
        """
        worker = get_worker_info()
        count = self._counters[0 if worker is None else 1 + worker.id % (_SLOTS - 1)]
        count[0] += 1
        descriptor = self.cache.open(self.split, shard)
        if descriptor is not None:
            return descriptor
        began = time.monotonic()
        count[1] += 1
        try:
            descriptor, fetched = self._fetch(shard)
            count[2] += fetched
        finally:
            count[3] += time.monotonic() - began
        return descriptor

    def statistics(self) -> CacheStatistics:
        """Sums over this rank and its workers since the beginning."""
        opened, missed, fetched, waited = self._counters.sum(0).tolist()
        return CacheStatistics(int(opened), int(missed), int(fetched), waited)

    def describe(self) -> str:
        """One line on what was added since this was called last; empty if no shard was opened."""
        now, before = self.statistics(), self._described
        self._described = now
        return str(now.since(before)) if now.opened > before.opened else ""

    @property
    def prefetcher_pid(self) -> int | None:
        """The process that fetches ahead, if this object started it and it lives."""
        return self._prefetcher.pid if self._prefetcher is not None else None

    def close(self) -> None:
        """Ends fetching ahead, and lets the split go that was in use. Nothing is to be opened after it."""
        if self._prefetcher is not None and os.getpid() == self._owner:
            self._prefetcher.close()
        self._end_use()

    def __del__(self) -> None:
        if hasattr(self, "_use"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_use": None, "_prefetcher": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def _fetch(self, shard: int) -> tuple[int, int]:
        groups_ahead = self._outlook.groups_ahead(Reached(*self._reached.tolist()))
        try:
            return self.cache.fetch(self.split, shard, groups_ahead, self.patience)
        except FileNotFoundError:  # somebody has deleted the cache, which they may
            self._end_use()
            self._begin()
            return self.cache.fetch(self.split, shard, groups_ahead, self.patience)

    def _begin(self) -> None:
        self._outlook = Outlook(self.order)
        self._use = self.cache.begin_use(self.split)
        self._owner: int = os.getpid()

    def _end_use(self) -> None:
        if self._use is not None:
            os.close(self._use)
            self._use = None

    def _warn_of_small_bound(self) -> None:
        sizes = [shard.bytes for shard in self.split.shards]
        group = max((sum(sizes[shard] for shard in shards) for shards in self.order.groups(0)), default=0)
        if group > self.cache.bound >= max(sizes):  # a cache too small for one shard is an error, told when it is met
            print(
                f"{shown(self.split.folder)}: {gigabytes(group)} GB are read at a time and the cache holds "
                f"{gigabytes(self.cache.bound)}: shards will be fetched many times an epoch; use --data.cache_gb "
                f"{gigabytes(2 * group)} or more",
                file=sys.stderr,
                flush=True,
            )
