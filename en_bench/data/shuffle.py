"""The order in which a training epoch reads a split: a pure function of (manifest, seed, epoch).

Shards are permuted and taken in groups of `span`; the blocks of neighbouring samples in a group are permuted; the
samples are shuffled within windows of blocks. Reads so stay near one another, a far set needs few shards at a time,
each shard only once in an epoch, and yet which samples meet is drawn anew in each epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from en_bench.data.order import Indices, Stream, random_words

BLOCK = 128  # neighbouring samples read together: long enough to stay nearly sequential on a disk
WINDOW = 64  # blocks shuffled together: short enough to stay in the page cache
SPAN = 16  # shards shuffled together, where each holds a random part of the split


def shuffle_of(counts: tuple[int, ...], seed: int, permuted: bool, span: int | None = None) -> Shuffle:
    """The order of a split's training epochs.

    Where the split was not permuted, neighbours may be of one class: all shards are shuffled together then, in shorter
    blocks of which a window holds more.

    Args:
        counts: samples of each shard that take part.
        seed: of the run.
        permuted: whether the split was permuted as a whole when it was written.
        span: shards to shuffle together, in place of the default.
    """
    shards = max(1, len(counts))
    if permuted:
        return Shuffle(counts, seed, min(span or SPAN, shards))
    return Shuffle(counts, seed, min(span or shards, shards), BLOCK // 8, WINDOW * 8)


@dataclass(frozen=True)
class Shuffle:
    """How the epochs of a training mix the samples of a split.

    Attributes:
        counts: samples of each shard that take part, in the order of the manifest. Positions 0 .. count - 1 are
            theirs, shard by shard.
        seed: of the run.
        span: shards whose samples may meet in a window.
        block: neighbouring samples that move together.
        window: blocks whose samples are shuffled together.

    Raises ValueError for a span, block or window below 1.
    """

    counts: tuple[int, ...]
    seed: int
    span: int
    block: int = BLOCK
    window: int = WINDOW

    def __post_init__(self) -> None:
        if min(self.span, self.block, self.window) < 1 or min(self.counts, default=0) < 0:
            raise ValueError(f"span, block and window must be at least 1, counts at least 0: {self.facts()}")

    @property
    def count(self) -> int:
        return sum(self.counts)

    def facts(self) -> dict[str, Any]:
        """What an order depends on beside the manifest and the epoch."""
        return {"seed": self.seed, "span": self.span, "block": self.block, "window": self.window}

    def groups(self, epoch: int) -> list[list[int]]:
        """The shards that an epoch reads, in groups: all of one group are read before any of the next."""
        words = random_words(len(self.counts), self.seed, epoch, Stream.SHARDS)
        shards = [int(shard) for shard in np.argsort(words, kind="stable") if self.counts[shard]]
        return [shards[first : first + self.span] for first in range(0, len(shards), self.span)]

    def order(self, epoch: int) -> Indices:
        """Positions in the order of reading: a permutation of shape (count,)."""
        counts = np.asarray(self.counts, dtype=np.int64)
        blocks_per_shard = -(-counts // self.block)
        first_block = np.cumsum(blocks_per_shard) - blocks_per_shard
        shard_of_block = np.repeat(np.arange(len(counts)), blocks_per_shard)
        within = (np.arange(len(shard_of_block)) - first_block[shard_of_block]) * self.block
        begin = (np.cumsum(counts) - counts)[shard_of_block] + within
        length = np.minimum(self.block, counts[shard_of_block] - within)  # the last block of a shard may be short

        block_words = random_words(len(begin), self.seed, epoch, Stream.BLOCKS)
        words = random_words(self.count, self.seed, epoch, Stream.WITHIN)
        order = np.empty(self.count, dtype=np.int64)
        filled = 0
        for group in self.groups(epoch):
            blocks = np.concatenate([first_block[shard] + np.arange(blocks_per_shard[shard]) for shard in group])
            blocks = blocks[np.argsort(block_words[blocks], kind="stable")]
            for first in range(0, len(blocks), self.window):
                chosen = blocks[first : first + self.window]
                sizes = length[chosen]
                members = np.repeat(begin[chosen] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
                span = slice(filled, filled + len(members))
                order[span] = members[np.argsort(words[span], kind="stable")]
                filled = span.stop
        return order
