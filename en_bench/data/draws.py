"""The random numbers of each sample: a pure function of (seed, epoch, key), for a whole batch at a time.

Seed, epoch and the key's bytes are hashed to the start of a SplitMix64 sequence (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014, with Stafford's variant 13 of the mixing function). It is exact
integer arithmetic, so a sample looks the same on every machine, under every numpy, in every batch, worker and shard.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd
_STEPS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST = np.uint64(31)
_WORD = 8  # bytes


def draws(keys: NDArray[np.bytes_], seed: int, epoch: int, count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) for each of B keys, multiples of 2**-53, shape (B, count).

    Raises ValueError unless seed and epoch are in 0 .. 2**64 - 1.
    """
    if not 0 <= seed < 2**64 or not 0 <= epoch < 2**64:
        raise ValueError(f"seed and epoch must be in 0 .. 2**64 - 1, got {seed} and {epoch}")
    starts = np.zeros(len(keys), dtype=np.uint64)
    for word in (seed, epoch):
        starts = _absorb(starts, np.uint64(word))
    for words in _words(keys).T:
        # A batch's keys have the width of the split's longest: zeros behind a key must not change it.
        starts = np.where(words == 0, starts, _absorb(starts, words))
    with np.errstate(over="ignore"):
        steps = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    return (_mix(starts[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _absorb(state: Words, word: Words | np.uint64) -> Words:
    return _mix((state ^ word) + _GAMMA)


def _mix(words: Words) -> Words:
    for shift, factor in _STEPS:
        words = (words ^ (words >> shift)) * factor
    return words ^ (words >> _LAST)


def _words(keys: NDArray[np.bytes_]) -> Words:
    """The bytes of B keys as little-endian words, shape (B, words of the longest)."""
    width = -(-keys.dtype.itemsize // _WORD) * _WORD
    return np.ascontiguousarray(keys, dtype=f"S{width}").view("<u8").reshape(len(keys), -1)
