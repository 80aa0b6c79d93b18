"""The order of an epoch, held against its definition written out, and what it does to sorted shards."""

import dataclasses
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from en_bench.data.shuffle import BLOCK, SPAN, WINDOW, Shuffle, shuffle_of
from tests.data.philox import WORD, philox_words, sorted_by

SHUFFLES = st.builds(
    Shuffle,
    counts=st.lists(st.integers(0, 60), max_size=23).map(tuple),
    seed=st.integers(0, WORD),
    span=st.integers(1, 25),
    block=st.integers(1, 20),
    window=st.integers(1, 8),
)
EPOCHS = st.integers(0, 1000)


def plain_order(counts: Sequence[int], seed: int, epoch: int, span: int, block: int, window: int) -> list[int]:
    """The definition, sample by sample."""
    blocks: list[list[int]] = []
    blocks_of_shard: list[list[int]] = []  # by number
    first = 0
    for count in counts:
        blocks_of_shard.append([])
        for begin in range(0, count, block):
            blocks_of_shard[-1].append(len(blocks))
            blocks.append([first + position for position in range(begin, min(begin + block, count))])
        first += count
    shards = [shard for shard in sorted_by(philox_words(len(counts), seed, epoch, 3)) if counts[shard]]
    block_keys = philox_words(len(blocks), seed, epoch, 1)
    keys = philox_words(sum(counts), seed, epoch, 2)
    order: list[int] = []
    for begin in range(0, len(shards), span):
        mixed = [number for shard in shards[begin : begin + span] for number in blocks_of_shard[shard]]
        mixed.sort(key=block_keys.__getitem__)
        for head in range(0, len(mixed), window):
            members = [sample for number in mixed[head : head + window] for sample in blocks[number]]
            order += [members[i] for i in sorted_by(keys[len(order) : len(order) + len(members)])]
    return order


def shard_of(counts: Sequence[int], order: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)[order]


def mean_run(values: np.ndarray) -> float:
    """Mean number of neighbours that are alike."""
    return len(values) / (1 + int((np.diff(values) != 0).sum()))


@given(shuffle=SHUFFLES, epoch=EPOCHS)
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_the_permutation_of_the_plain_transcription(shuffle, epoch):
    order = shuffle.order(epoch)
    assert order.dtype == np.int64 and order.shape == (shuffle.count,) == (sum(shuffle.counts),)
    assert sorted(order.tolist()) == list(range(shuffle.count))
    options = (shuffle.span, shuffle.block, shuffle.window)
    assert order.tolist() == plain_order(shuffle.counts, shuffle.seed, epoch, *options)


@given(shuffle=SHUFFLES, epoch=EPOCHS)
@settings(max_examples=60, deadline=None)
def test_each_shard_is_read_in_one_group_only(shuffle, epoch):
    groups = shuffle.groups(epoch)
    filled = [shard for shard, count in enumerate(shuffle.counts) if count]
    assert sorted(shard for group in groups for shard in group) == filled
    assert [len(group) for group in groups[:-1]] == [shuffle.span] * (len(groups) - 1)
    read = shard_of(shuffle.counts, shuffle.order(epoch)).tolist()
    for group in groups:
        own = sum(shuffle.counts[shard] for shard in group)
        assert set(read[:own]) == set(group)
        del read[:own]
    assert read == []


def test_recorded_orders_never_change():
    """An order that changes silently makes every resumed or repeated training another one: never edit these."""
    small = Shuffle((4, 0, 3, 5), seed=0, span=2, block=2, window=2)
    assert small.groups(0) == [[0, 3], [2]]
    assert small.order(0).tolist() == [8, 7, 11, 1, 0, 10, 9, 2, 3, 4, 5, 6]
    large = Shuffle((900, 1000, 57), seed=7, span=3)
    assert large.order(3)[:8].tolist() == [413, 329, 1912, 562, 77, 513, 1770, 1688]
    assert large.order(3)[-8:].tolist() == [331, 286, 1436, 1929, 1659, 1733, 694, 1833]
    assert (BLOCK, WINDOW, SPAN) == (128, 64, 16)


def test_the_order_depends_on_counts_seed_epoch_and_span_and_on_nothing_else():
    shuffle = Shuffle((200, 300, 250), seed=5, span=2)
    order = shuffle.order(4).tolist()
    np.random.default_rng(0).random()
    np.random.seed(3)
    assert shuffle.order(4).tolist() == Shuffle((200, 300, 250), seed=5, span=2).order(4).tolist() == order
    others = [
        dataclasses.replace(shuffle, counts=(200, 299, 251)).order(4),
        dataclasses.replace(shuffle, seed=6).order(4),
        dataclasses.replace(shuffle, span=1).order(4),
        dataclasses.replace(shuffle, block=64).order(4),
        dataclasses.replace(shuffle, window=2).order(4),
        shuffle.order(5),
    ]
    assert len({tuple(other.tolist()) for other in others} | {tuple(order)}) == 7
    assert shuffle.facts() == {"seed": 5, "span": 2, "block": 128, "window": 64}


def test_seed_and_epoch_do_not_stand_for_one_another():
    """Two seeds that share an epoch's order some epochs apart would be no independent repetitions."""
    orders = {tuple(Shuffle((50, 50), seed, 2).order(epoch).tolist()) for seed in range(12) for epoch in range(12)}
    assert len(orders) == 144


def test_the_samples_that_come_last_change_from_epoch_to_epoch():
    shuffle = Shuffle((30, 40, 23), seed=0, span=3)
    dropped = [frozenset(shuffle.order(epoch)[64:].tolist()) for epoch in range(10)]
    assert len(set(dropped)) == 10
    assert not frozenset.intersection(*dropped), "a sample is never trained on"


def test_windows_hold_whole_blocks():
    order = Shuffle((1000,), 0, span=1, block=10, window=5).order(0).reshape(-1, 50)
    for window in order:
        assert len(set(window // 10)) == 5
    assert (np.diff(order[0] // 10) != 0).mean() > 0.5, "blocks stay unmixed within their window"


def test_one_shard_at_a_time_and_all_together():
    counts = (40, 60, 50, 70)
    alone = shard_of(counts, Shuffle(counts, 0, span=1).order(0))
    assert 1 + int((np.diff(alone) != 0).sum()) == 4
    together = Shuffle(counts, 0, span=4)
    assert together.groups(0) == [sorted(range(4), key=philox_words(4, 0, 0, 3).__getitem__)]
    assert mean_run(shard_of(counts, together.order(0))) < 2
    assert dataclasses.replace(together, span=99).order(0).tolist() == together.order(0).tolist()


@pytest.mark.parametrize("counts", [(), (0,), (0, 0, 0)])
def test_shards_without_samples_make_no_order(counts):
    shuffle = Shuffle(counts, 0, span=2)
    assert shuffle.order(0).tolist() == [] and shuffle.groups(0) == []


def test_shards_that_take_no_part_leave_no_trace_in_the_positions():
    shuffle = Shuffle((0, 30, 0, 20, 0), 3, span=1)
    assert sorted(shuffle.order(1).tolist()) == list(range(50))
    assert sorted(map(tuple, shuffle.groups(1))) == [(1,), (3,)]


def test_class_sorted_shards_are_mixed_where_all_meet():
    """The worst that other makers do: shards in the order of the classes. 10 classes, random neighbours run 1.11."""
    counts = (997,) * 40
    classes = np.arange(sum(counts)) * 10 // sum(counts)
    random = mean_run(np.random.default_rng(0).permutation(classes))
    assert random == pytest.approx(1 / (1 - 0.1), rel=0.01)
    for epoch in range(3):
        order = Shuffle(counts, 0, span=len(counts)).order(epoch)
        assert mean_run(classes[order]) < 1.05 * random
        assert mean_run(shard_of(counts, order)) < 1.1
        largest = max(np.bincount(batch, minlength=10).max() for batch in classes[order][:39_000].reshape(-1, 100))
        assert largest <= 50, "a batch of one class above all"
    assert mean_run(classes[Shuffle(counts, 0, span=1).order(0)]) > 100, "the statistics see what is unmixed"


def test_who_meets_whom_is_drawn_anew():
    """Were blocks or windows fixed, neighbours of one epoch would be neighbours in the next."""
    counts = (997,) * 20
    place = np.empty(sum(counts), dtype=np.int64)
    first, second = (Shuffle(counts, 0, span=16).order(epoch) for epoch in (0, 1))
    place[second] = np.arange(len(second))
    near = np.abs(np.diff(place[first])) < 100
    assert near.mean() < 0.05


def test_all_shards_are_mixed_unless_they_were_permuted_when_written():
    assert shuffle_of((9,) * 8, 3, permuted=True) == Shuffle((9,) * 8, 3, 8)
    assert shuffle_of((9,) * 40, 3, permuted=True) == Shuffle((9,) * 40, 3, 16)
    assert shuffle_of((9,) * 40, 3, permuted=False) == Shuffle((9,) * 40, 3, 40, 16, 512)
    assert shuffle_of((9,) * 40, 3, permuted=False, span=50).span == 40
    assert shuffle_of((9,) * 40, 3, permuted=True, span=2).span == 2


def test_a_set_sorted_by_class_is_mixed_as_well_as_a_permutation_mixes_it():
    """ImageNet's proportions: 200 classes of 1,300 in 200 shards, batches of 64 out of a window's 8,192 samples."""
    order = shuffle_of((1300,) * 200, 0, permuted=False).order(0)
    batches = (order[: len(order) // 64 * 64] // 1300).reshape(-1, 64)
    classes = np.mean([len(np.unique(batch)) for batch in batches])
    assert classes == pytest.approx(200 * (1 - (1 - 1 / 200) ** 64), rel=0.05)


@pytest.mark.parametrize(
    "wrong", [{"span": 0}, {"block": 0}, {"window": 0}, {"span": -1}, {"counts": (3, -1)}], ids=str
)
def test_sizes_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="span, block and window must be at least 1, counts at least 0"):
        Shuffle(**{"counts": (3, 4), "seed": 0, "span": 1, **wrong})


def test_an_order_of_1_3_million_samples_takes_little_memory():
    shuffle = Shuffle((1000,) * 1281 + (167,), 0, span=16)
    tracemalloc.start()
    order = shuffle.order(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (np.bincount(order, minlength=1_281_167) == 1).all()
    assert peak < 64 * 2**20, "the order itself has 10 MiB"
