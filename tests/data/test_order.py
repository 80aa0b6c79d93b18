"""Which samples a batch holds, as arithmetic on an order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from en_bench.data.order import (
    Stream,
    check_trainable,
    eval_batch,
    eval_steps,
    even_batch,
    even_steps,
    random_words,
    train_batch,
    train_steps,
    write_order,
)
from en_bench.errors import InputError
from tests.data.philox import WORD, philox_words, sorted_by

counts = st.integers(1, 3000)
ranks = st.integers(1, 8)
batches = st.integers(1, 40)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (3, 5), (WORD, WORD)])
def test_random_words_equal_the_plain_transcription(seed, epoch):
    for stream in Stream:
        assert random_words(11, seed, epoch, stream).tolist() == philox_words(11, seed, epoch, stream)


@pytest.mark.parametrize("count", [0, 1, 7, 128, 1000])
def test_the_order_of_writing_equals_the_plain_transcription(count):
    assert write_order(count, 3).tolist() == sorted_by(philox_words(count, 3, 0, 0))


def test_the_recorded_order_of_writing_never_changes():
    assert write_order(10, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert [(stream.name, stream.value) for stream in Stream] == [
        ("WRITE", 0),
        ("BLOCKS", 1),
        ("WITHIN", 2),
        ("SHARDS", 3),
    ]


@given(count=counts, ranks=ranks, batch=batches)
@settings(max_examples=100, deadline=None)
def test_training_gives_every_rank_full_batches_and_no_sample_twice(count, ranks, batch):
    order = np.random.default_rng(count).permutation(count)
    steps = train_steps(count, batch, ranks)
    seen: list[int] = []
    for step in range(steps):
        for rank in range(ranks):
            indices = train_batch(order, step, rank, batch, ranks)
            assert len(indices) == batch
            seen += indices.tolist()
    assert seen == order[: len(seen)].tolist()
    assert 0 <= count - len(seen) < batch * ranks
    with pytest.raises(ValueError, match="out of range"):
        train_batch(order, steps, 0, batch, ranks)


@given(count=st.integers(0, 3000), ranks=ranks, batch=batches)
@settings(max_examples=100, deadline=None)
def test_evaluation_sees_every_sample_exactly_once(count, ranks, batch):
    seen: list[int] = []
    for step in range(eval_steps(count, batch, ranks)):
        for rank in range(ranks):
            indices = eval_batch(count, step, rank, batch, ranks)
            assert indices.shape == (batch,)
            seen += indices.tolist()
    assert seen == list(range(count)) + [-1] * (len(seen) - count)
    assert len(seen) - count < batch * ranks
    with pytest.raises(ValueError, match="out of range"):
        eval_batch(count, 0, ranks, batch, ranks)


@given(count=st.integers(0, 3000), batch=batches)
@settings(max_examples=100, deadline=None)
def test_even_batches_hold_every_sample_exactly_once_and_none_is_a_small_rest(count, batch):
    found = [even_batch(count, step, batch).tolist() for step in range(even_steps(count, batch))]
    assert [index for each in found for index in each] == list(range(count))
    sizes = [len(each) for each in found]
    if count > 1:
        assert max(sizes) - min(sizes) <= 1 and min(sizes) > 1
        assert max(sizes) <= max(batch, 3)
    if batch > 2 and count > 1:
        assert len(found) == eval_steps(count, batch, 1)
    with pytest.raises(ValueError, match="out of range"):
        even_batch(count, len(found), batch)


def test_even_batches_by_hand():
    assert [even_batch(7, step, 3).tolist() for step in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [[len(even_batch(93, step, batch)) for step in range(even_steps(93, batch))] for batch in (46, 93, 200)] == [
        [31, 31, 31],
        [93],
        [93],
    ]
    assert [even_steps(3, 2), even_steps(5, 1), even_steps(1, 8)] == [1, 2, 1]


def test_batches_by_hand():
    order = np.array([4, 2, 9, 0, 7, 1, 8, 3, 6, 5])
    assert [train_batch(order, step, rank, 2, 2).tolist() for step in (0, 1) for rank in (0, 1)] == [
        [4, 2],
        [9, 0],
        [7, 1],
        [8, 3],
    ]
    assert [eval_batch(7, step, rank, 2, 2).tolist() for step in (0, 1) for rank in (0, 1)] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, -1],
    ]


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


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**64)])
def test_seeds_and_epochs_out_of_range_are_refused(seed, epoch):
    with pytest.raises(ValueError, match="seed and epoch must be in"):
        random_words(10, seed, epoch, Stream.BLOCKS)
