import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from en_bench.data.order import (
    check_trainable,
    epoch_order,
    eval_batch,
    eval_steps,
    train_batch,
    train_steps,
    write_order,
)
from en_bench.errors import InputError

counts = st.integers(1, 3000)
ranks = st.integers(1, 8)
batches = st.integers(1, 40)
epochs = st.integers(0, 1000)

WORD = 2**64 - 1


def philox_words(count: int, seed: int, epoch: int, stream: int) -> list[int]:
    """Philox4x64-10 in plain integers, from the paper's description; numpy counts from 1."""
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


def plain_epoch_order(count: int, seed: int, epoch: int, block: int, window: int) -> list[int]:
    """The definition, sample by sample."""
    blocks = [list(range(first, min(first + block, count))) for first in range(0, count, block)]
    keys = philox_words(len(blocks), seed, epoch, 1)
    permuted = [blocks[i] for i in sorted(range(len(blocks)), key=keys.__getitem__)]
    keys = philox_words(count, seed, epoch, 2)
    order: list[int] = []
    for first in range(0, len(permuted), window):
        members = [sample for part in permuted[first : first + window] for sample in part]
        own = keys[len(order) : len(order) + len(members)]
        order += [members[i] for i in sorted(range(len(members)), key=own.__getitem__)]
    return order


@pytest.mark.parametrize("count", [0, 1, 7, 128, 1000])
def test_orders_equal_the_plain_transcription(count):
    assert epoch_order(count, 3, 5, block=8, window=4).tolist() == plain_epoch_order(count, 3, 5, 8, 4)
    keys = philox_words(count, 3, 0, 0)
    assert write_order(count, 3).tolist() == sorted(range(count), key=keys.__getitem__)


def test_recorded_orders_never_change():
    assert write_order(10, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert epoch_order(10, 0, 0, block=2, window=2).tolist() == [9, 5, 8, 4, 2, 3, 1, 0, 7, 6]


@given(count=counts, seed=st.integers(0, WORD), epoch=epochs)
@settings(max_examples=50, deadline=None)
def test_an_epoch_is_a_permutation(count, seed, epoch):
    order = epoch_order(count, seed, epoch)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


def test_seeds_and_epochs_give_other_orders():
    orders = {tuple(epoch_order(500, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_windows_hold_whole_blocks():
    order = epoch_order(1000, 0, 0, block=10, window=5).reshape(-1, 50)
    for window in order:
        assert len(set(window // 10)) == 5
    assert (np.diff(order[0] // 10) != 0).mean() > 0.5, "blocks stay unmixed within their window"


@given(count=counts, ranks=ranks, batch=batches, epoch=epochs)
@settings(max_examples=100, deadline=None)
def test_training_gives_every_rank_full_batches_and_no_sample_twice(count, ranks, batch, epoch):
    order = epoch_order(count, 0, epoch)
    steps = train_steps(count, batch, ranks)
    seen: list[int] = []
    for step in range(steps):
        for rank in range(ranks):
            indices = train_batch(order, step, rank, batch, ranks)
            assert len(indices) == batch
            seen += indices.tolist()
    assert len(set(seen)) == len(seen)
    assert 0 <= count - len(seen) < batch * ranks
    with pytest.raises(ValueError, match="out of range"):
        train_batch(order, steps, 0, batch, ranks)


def test_the_dropped_samples_change_from_epoch_to_epoch():
    dropped = [frozenset(epoch_order(93, 0, epoch)[train_steps(93, 16, 2) * 32 :].tolist()) for epoch in range(10)]
    assert len(set(dropped)) == 10
    assert not frozenset.intersection(*dropped), "a sample is never trained on"


@given(count=st.integers(0, 3000), ranks=ranks, batch=batches)
@settings(max_examples=100, deadline=None)
def test_evaluation_sees_every_sample_exactly_once(count, ranks, batch):
    seen: list[int] = []
    for step in range(eval_steps(count, batch, ranks)):
        for rank in range(ranks):
            indices = eval_batch(count, step, rank, batch, ranks)
            assert indices.shape == (batch,)
            seen += indices.tolist()
    assert [index for index in seen if index >= 0] == list(range(count))
    assert seen.count(-1) == len(seen) - count < batch * ranks or count == 0


def test_the_global_batch_does_not_depend_on_the_number_of_ranks():
    order = epoch_order(640, 0, 0)
    one = [train_batch(order, 3, 0, 64, 1)]
    four = [train_batch(order, 3, rank, 16, 4) for rank in range(4)]
    assert np.concatenate(one).tolist() == np.concatenate(four).tolist()


@pytest.mark.parametrize(
    ("count", "batch", "ranks", "message"),
    [
        (90, 64, 2, "90 training samples cannot fill 2 ranks x batch 64: use --data.batch_size 45 or less"),
        (3, 8, 4, "3 training samples cannot feed 4 ranks: use --trainer.devices 3 or less"),
        (0, 8, 1, "0 training samples cannot feed 1 ranks: use a split that holds samples"),
        (90, 0, 2, "no step has a batch of 0: use --data.batch_size 1 or more"),
        (90, -4, 2, "no step has a batch of -4: use --data.batch_size 1 or more"),
    ],
)
def test_too_few_samples_are_refused_with_the_cure(count, batch, ranks, message):
    with pytest.raises(InputError) as error:
        check_trainable(count, batch, ranks)
    assert str(error.value) == message


def test_the_cure_of_too_few_samples_cures():
    check_trainable(90, 45, 2)
    with pytest.raises(InputError):
        check_trainable(90, 46, 2)


def test_seeds_out_of_range_are_refused():
    with pytest.raises(ValueError, match="seed"):
        epoch_order(10, -1, 0)
