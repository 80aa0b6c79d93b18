"""Philox4x64-10 in plain integers, from the description in the paper (Salmon et al., SC 2011); numpy counts from 1."""

WORD = 2**64 - 1


def philox_words(count: int, seed: int, epoch: int, stream: int) -> list[int]:
    words: list[int] = []
    counter = stream << 192
    while len(words) < count:
        counter = (counter + 1) % 2**256
        x = [(counter >> (64 * i)) & WORD for i in range(4)]
        k0, k1 = seed, epoch
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(b >> 64) ^ x[1] ^ k0, b & WORD, (a >> 64) ^ x[3] ^ k1, a & WORD]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & WORD, (k1 + 0xBB67AE8584CAA73B) & WORD
        words += x
    return words[:count]


def sorted_by(keys: list[int]) -> list[int]:
    """Positions of the keys in ascending order."""
    return sorted(range(len(keys)), key=keys.__getitem__)
