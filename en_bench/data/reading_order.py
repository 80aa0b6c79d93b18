"""Which shards are needed when: what a cache keeps and what it fetches ahead."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol


class ReadingOrder(Protocol):
    """The shards of a split in the order of reading. `Shuffle` is one.

    Attributes:
        counts: samples that are read of each shard, in the order of the manifest.
    """

    @property
    def counts(self) -> tuple[int, ...]: ...

    def groups(self, epoch: int) -> list[list[int]]:
        """Shards that are read together, in the order of reading: all of one group before any of the next."""


@dataclass(frozen=True)
class NaturalOrder:
    """One shard after the other, as evaluation reads them."""

    counts: tuple[int, ...]

    def groups(self, epoch: int) -> list[list[int]]:
        return [[shard] for shard, count in enumerate(self.counts) if count]


class Reached(NamedTuple):
    """How far a run has read: `sample` samples of `epoch`, over all ranks."""

    epoch: int = 0
    sample: int = 0


class _Epoch(NamedTuple):
    groups: list[list[int]]
    ends: list[int]  # per group, samples up to its end


class Outlook:
    """What an order needs next, from wherever a run has got to."""

    def __init__(self, order: ReadingOrder) -> None:
        self.order = order
        self._epochs: dict[int, _Epoch] = {}

    def groups_ahead(self, reached: Reached) -> dict[int, int]:
        """Per shard the number of groups until it is needed, 0 for the present group, in the order of need.

        It reaches to the end of the next epoch, so that each shard that is read at all is in it.
        """
        epoch, following = self._epoch(reached.epoch), self._epoch(reached.epoch + 1)
        ahead: dict[int, int] = {}
        for distance, group in enumerate(epoch.groups[self.group(reached) :] + following.groups):
            for shard in group:
                ahead.setdefault(shard, distance)
        return ahead

    def group(self, reached: Reached) -> int:
        """Which group of its epoch is being read; their number at the epoch's end."""
        return bisect.bisect_right(self._epoch(reached.epoch).ends, reached.sample)

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            self._epochs = {known: value for known, value in self._epochs.items() if abs(known - epoch) <= 1}
            groups = self.order.groups(epoch)
            sizes = (sum(self.order.counts[shard] for shard in group) for group in groups)
            self._epochs[epoch] = _Epoch(groups, list(accumulate(sizes)))
        return self._epochs[epoch]
