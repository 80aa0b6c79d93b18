"""Which sample is read when: pure functions of (count, seed, epoch, step, rank).

All randomness is the raw output of the counter-based generator Philox4x64-10 (Salmon et al., "Parallel random numbers:
as easy as 1, 2, 3", SC 2011) followed by a stable sort, so that an order is the same on every machine and under every
numpy. `Generator.permutation` promises that for one numpy version only.
"""

import enum

import numpy as np
from numpy.typing import NDArray

from en_bench.errors import InputError

Indices = NDArray[np.int64]


class Stream(enum.IntEnum):
    """Independent random streams of one seed. The values are part of every recorded order: never renumber them."""

    WRITE = 0
    BLOCKS = 1
    WITHIN = 2
    SHARDS = 3


def random_words(count: int, seed: int, epoch: int, stream: Stream) -> NDArray[np.uint64]:
    """`count` random words of 64 bits."""
    if not 0 <= seed < 2**64 or not 0 <= epoch < 2**64:
        raise ValueError(f"seed and epoch must be in 0 .. 2**64 - 1, got {seed} and {epoch}")
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Philox(counter=counter, key=key).random_raw(count)


def write_order(count: int, seed: int) -> Indices:
    """Permutation of `count` samples that is applied once, when shards are written. Shape (count,)."""
    return np.argsort(random_words(count, seed, 0, Stream.WRITE), kind="stable")


def train_steps(count: int, batch: int, ranks: int) -> int:
    """Optimiser steps per epoch, equal on all ranks: every batch is full, fewer than batch x ranks samples are left."""
    return count // (batch * ranks)


def eval_steps(count: int, batch: int, ranks: int) -> int:
    """Evaluation steps, equal on all ranks: every sample is in one of them."""
    return -(-count // (batch * ranks))


def train_batch(order: Indices, step: int, rank: int, batch: int, ranks: int) -> Indices:
    """Sample indices of one training batch, shape (batch,). `order` is the epoch's."""
    _check_position(step, train_steps(len(order), batch, ranks), rank, ranks)
    start = (step * ranks + rank) * batch
    return order[start : start + batch]


def eval_batch(count: int, step: int, rank: int, batch: int, ranks: int) -> Indices:
    """Sample indices of one evaluation batch in natural order, shape (batch,), -1 past the last sample."""
    _check_position(step, eval_steps(count, batch, ranks), rank, ranks)
    start = (step * ranks + rank) * batch
    indices = np.arange(start, start + batch, dtype=np.int64)
    indices[indices >= count] = -1
    return indices


def even_steps(count: int, batch: int) -> int:
    """Batches that share `count` samples out evenly: of at most `batch`, but of 2 or 3 rather than of a single one."""
    return max(min(-(-count // batch), count // 2), min(count, 1))


def even_batch(count: int, step: int, batch: int) -> Indices:
    """Sample indices of one of the `even_steps`, in natural order: every sample once, sizes differ by 1 at most."""
    steps = even_steps(count, batch)
    _check_position(step, steps, rank=0, ranks=1)
    return np.arange(count * step // steps, count * (step + 1) // steps, dtype=np.int64)


def check_trainable(count: int, batch: int, ranks: int) -> None:
    """Raises InputError if an epoch of `count` samples would hold no step. To be called before any rank starts."""
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    if batch < 1:
        raise InputError(f"no step has a batch of {batch}: use --data.batch_size 1 or more")
    if train_steps(count, batch, ranks) > 0:
        return
    if count < ranks:
        cure = f"use --trainer.devices {count} or less" if count else "use a split that holds samples"
        raise InputError(f"{count} training samples cannot feed {ranks} ranks: {cure}")
    raise InputError(
        f"{count} training samples cannot fill {ranks} rank{'s' * (ranks > 1)} x batch {batch}: "
        f"use --data.batch_size {count // ranks} or less"
    )


def _check_position(step: int, steps: int, rank: int, ranks: int) -> None:
    if not 0 <= step < steps or not 0 <= rank < ranks:
        raise ValueError(f"step {step} of {steps}, rank {rank} of {ranks}: out of range")
