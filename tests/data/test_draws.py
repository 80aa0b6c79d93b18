"""Random numbers of samples: as documented, the same for ever, and random."""

import itertools

import numpy as np
import pytest

from en_bench.data.draws import draws

WORD = 2**64
GAMMA = 0x9E3779B97F4A7C15


def by_hand(key: bytes, seed: int, epoch: int, count: int) -> list[float]:
    """SplitMix64 as published, with Python's whole numbers."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        return z ^ (z >> 31)

    state = 0
    for word in (seed, epoch, *(int.from_bytes(key[i : i + 8], "little") for i in range(0, len(key), 8))):
        state = mix(((state ^ word) + GAMMA) % WORD)
    numbers = []
    for _ in range(count):
        state = (state + GAMMA) % WORD
        numbers.append((mix(state) >> 11) / 2**53)
    return numbers


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (1, 0), (0, 1), (2**64 - 1, 2**64 - 1), (12345, 89)])
def test_numbers_are_those_of_the_published_generator(seed, epoch):
    keys = [b"a", b"12345678", b"123456789", "n01440764/Ä".encode(), b"x" * 240]
    found = draws(np.array(keys), seed, epoch, 5)
    assert found.shape == (5, 5) and found.dtype == np.float64
    assert found.tolist() == [by_hand(key, seed, epoch, 5) for key in keys]


def test_numbers_never_change():
    """Recorded runs depend on them."""
    assert draws(np.array([b"toy-1-0001"]), 7, 3, 3).tolist() == [
        [0.8064341853571851, 0.5165897698474106, 0.3973717138384971]
    ]


def test_a_key_has_its_numbers_whatever_the_others_are():
    alone = draws(np.array([b"key"]), 0, 0, 4)
    among = draws(np.array([b"another key that is far longer", b"key", b"k"]), 0, 0, 4)
    assert among[1].tolist() == alone[0].tolist()
    assert among[2].tolist() != alone[0].tolist()
    assert draws(np.array([b"other", b"key"])[1:], 0, 0, 4).tolist() == alone.tolist()


def test_a_transform_without_random_numbers_gets_none():
    assert draws(np.array([b"a", b"b"]), 0, 0, 0).shape == (2, 0)


def test_numbers_are_uniform_and_independent():
    """Neighbouring keys, epochs and seeds are what is closest to one another in use."""
    count, columns, bins = 20_000, 4, 32
    keys = np.array([f"n01440764_{i}" for i in range(count)], dtype="S")
    sets = [draws(keys, seed, epoch, columns) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    columns_of_all = np.concatenate(sets, axis=1).T
    assert columns_of_all.min() >= 0 and columns_of_all.max() < 1
    for column in columns_of_all:
        counts = np.bincount((column * bins).astype(int), minlength=bins)
        assert ((counts - count / bins) ** 2 / (count / bins)).sum() < 85  # chi-square, 31 degrees: p < 1e-6
    correlation = np.corrcoef(np.concatenate([columns_of_all, columns_of_all[:, np.roll(np.arange(count), 1)]]))
    off_diagonal = [abs(correlation[i, j]) for i, j in itertools.combinations(range(len(correlation)), 2)]
    assert max(off_diagonal) < 5.5 / count**0.5


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (0, -1), (2**64, 0), (0, 2**64)])
def test_seeds_that_are_no_words_are_refused(seed, epoch):
    with pytest.raises(ValueError, match=r"seed and epoch must be in 0 .. 2\*\*64 - 1"):
        draws(np.array([b"a"]), seed, epoch, 1)
