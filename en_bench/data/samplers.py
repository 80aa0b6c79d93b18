"""Which samples each batch of a rank holds, and where a resumed epoch begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data.distributed import DistributedSampler

from en_bench.data import order
from en_bench.data.shuffle import Shuffle

PADDING = -1


class Request(NamedTuple):
    """What a sampler asks a dataset for: the samples at positions `indices` as they look in `epoch`."""

    epoch: int
    indices: NDArray[np.int64]


class StreamSampler(DistributedSampler[Request]):
    """Batches of one rank.

    A DistributedSampler by name only, because Lightning replaces every other kind of sampler by one of its own when
    there are several ranks; nothing of it is used but the type and `set_epoch`.
    """

    def __init__(self, batch_size: int, rank: int, ranks: int) -> None:
        self.batch_size, self.rank, self.ranks = batch_size, rank, ranks
        self.epoch = 0

    @property
    def first_step(self) -> int:
        """The step that the next iteration begins with."""
        return 0


class TrainSampler(StreamSampler):
    """`count // (batch_size * ranks)` full batches for every rank, in the shuffled order of the epoch.

    Args:
        shuffle: of the split.
        batch_size: samples per rank and step.
        rank, ranks: which of how many processes.
        epoch: the first that is read. A loader makes its iterator before anybody can tell it the epoch.
        start: steps of that epoch to leave out, since a training goes on there. `len` is the whole epoch's.

    Raises InputError if an epoch would hold no step.
    """

    def __init__(
        self, shuffle: Shuffle, batch_size: int, rank: int, ranks: int, epoch: int = 0, start: int = 0
    ) -> None:
        super().__init__(batch_size, rank, ranks)
        order.check_trainable(shuffle.count, batch_size, ranks)
        self.plan = shuffle
        self.start_at(epoch, start)

    def start_at(self, epoch: int, step: int) -> None:
        """Lets the next iteration begin at `step` of `epoch`, and all later ones at the beginning of theirs."""
        self.epoch = epoch
        self._started_in, self._start = epoch, step

    @property
    def first_step(self) -> int:
        return self._start if self.epoch == self._started_in else 0

    def __len__(self) -> int:
        return order.train_steps(self.plan.count, self.batch_size, self.ranks)

    def __iter__(self) -> Iterator[Request]:
        # The start is tied to its epoch, not forgotten after use: a loader with workers may call this twice for one.
        epoch, start = self.epoch, self.first_step
        shuffled = self.plan.order(epoch)
        for step in range(start, len(self)):
            yield Request(epoch, order.train_batch(shuffled, step, self.rank, self.batch_size, self.ranks))


class EvenSampler(StreamSampler):
    """Each of `count` samples exactly once on one rank, in natural order, in batches that are as large as each other.

    For what takes moments of each batch, which a short last one would bend.
    """

    def __init__(self, count: int, batch_size: int) -> None:
        super().__init__(batch_size, rank=0, ranks=1)
        self.count = count

    def __len__(self) -> int:
        return order.even_steps(self.count, self.batch_size)

    def __iter__(self) -> Iterator[Request]:
        for step in range(len(self)):
            yield Request(0, order.even_batch(self.count, step, self.batch_size))


class EvalSampler(StreamSampler):
    """Each of `count` samples exactly once over all ranks, in natural order, the end padded with -1."""

    def __init__(self, count: int, batch_size: int, rank: int, ranks: int) -> None:
        super().__init__(batch_size, rank, ranks)
        self.count = count

    def __len__(self) -> int:
        return order.eval_steps(self.count, self.batch_size, self.ranks)

    def __iter__(self) -> Iterator[Request]:
        for step in range(len(self)):
            yield Request(0, order.eval_batch(self.count, step, self.rank, self.batch_size, self.ranks))
