"""Which shards are needed when."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from en_bench.data.reading_order import NaturalOrder, Outlook, Reached
from en_bench.data.shuffle import Shuffle


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    span=st.integers(1, 5),
    epoch=st.integers(0, 3),
    fraction=st.floats(0, 1),
)
def test_the_outlook_is_what_a_walk_along_the_samples_finds(counts, span, epoch, fraction):
    order = Shuffle(tuple(counts), seed=1, span=span, block=2, window=2)
    sample = int(fraction * order.count)
    walked = [(number, shard) for number, shard in enumerate_samples(order, epoch)][sample:]
    following = enumerate_samples(order, epoch + 1)
    groups_passed = len(order.groups(epoch))
    expected: dict[int, int] = {}
    present = walked[0][0] if walked else groups_passed
    for number, shard in walked:
        expected.setdefault(shard, number - present)
    found = Outlook(order).groups_ahead(Reached(epoch, sample))
    for shard in order.groups(epoch)[present] if walked else []:
        expected[shard] = 0  # all of the present group, though some may be done with
    for number, shard in following:
        expected.setdefault(shard, groups_passed - present + number)
    assert found == expected
    assert list(found.values()) == sorted(found.values()), "in the order of need"


def enumerate_samples(order: Shuffle, epoch: int) -> list[tuple[int, int]]:
    """(group, shard) per sample, in the order of reading, told from the samples themselves."""
    shard_of = np.repeat(np.arange(len(order.counts)), order.counts)
    group_of = {shard: number for number, group in enumerate(order.groups(epoch)) for shard in group}
    return [(group_of[shard], shard) for shard in map(int, shard_of[order.order(epoch)])]


def test_evaluation_reads_shards_as_they_lie():
    order = NaturalOrder((3, 0, 2))
    assert Outlook(order).groups_ahead(Reached(0, 0)) == {0: 0, 2: 1}
    assert Outlook(order).groups_ahead(Reached(0, 3)) == {2: 0, 0: 1}
    assert Outlook(order).groups_ahead(Reached(0, 5)) == {0: 0, 2: 1}
