"""Streams are exact: who reads what, over drawn combinations of shards, ranks, workers, batches and epochs.

The samplers are run for all ranks of a world in turn. For tiny sets the real readers follow, and what they give is held
against the tars as `tarfile` and Pillow read them.
"""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from en_bench.data.dataset import Batch
from en_bench.data.loader import make_loader
from en_bench.data.manifest import load_manifest
from en_bench.data.samplers import EvalSampler, Request, StreamSampler, TrainSampler
from en_bench.data.shuffle import Shuffle
from en_bench.data.transforms import CenterCrop, PadCropFlip, ResizedCropFlip, Transform
from en_bench.errors import InputError
from tests.data.opened import open_dataset
from tests.images import make_split

COMBINATIONS = 320


class Combination(NamedTuple):
    shuffle: Shuffle
    batch: int
    ranks: int
    epoch: int


def drawn(number: int) -> Combination:
    """Combination `number`: 1 to 23 shards, some of them empty, 1 to 8 ranks, batches of 1 to 16, any epoch."""
    random = Random(number)
    counts = tuple(
        random.choice((0, 1, random.randrange(40), random.randrange(90))) for _ in range(random.randint(1, 23))
    )
    shuffle = Shuffle(
        counts,
        seed=random.randrange(2**64),
        span=random.randint(1, 25),
        block=random.randint(1, 12),
        window=random.randint(1, 6),
    )
    return Combination(shuffle, random.randint(1, 16), random.randint(1, 8), random.randrange(300))


def train_requests(combination: Combination, start: int = 0) -> list[list[Request]]:
    """What each rank asks for in the epoch."""
    shuffle, batch, ranks, epoch = combination
    found = []
    for rank in range(ranks):
        sampler = TrainSampler(shuffle, batch, rank, ranks, epoch, start)
        requests = list(sampler)
        assert len(requests) == len(sampler) - start
        assert all(request.epoch == epoch and len(request.indices) == batch for request in requests)
        found.append(requests)
    return found


def in_order(of_ranks: list[list[Request]]) -> list[int]:
    """The global batches one after the other, ranks in order within each."""
    assert len({len(requests) for requests in of_ranks}) == 1, "ranks have different numbers of batches: DDP would hang"
    steps = zip(*of_ranks, strict=True)
    return [int(index) for step in steps for request in step for index in request.indices]


@pytest.mark.parametrize("first", range(0, COMBINATIONS, 20))
def test_training_is_exact_for_any_shards_ranks_batch_and_epoch(first):
    for number in range(first, first + 20):
        combination = drawn(number)
        shuffle, batch, ranks, epoch = combination
        step = batch * ranks
        if shuffle.count < step:
            with pytest.raises(InputError, match=f"{shuffle.count} training samples cannot"):
                TrainSampler(shuffle, batch, 0, ranks)
            continue
        seen = in_order(train_requests(combination))
        assert len(set(seen)) == len(seen), "a sample twice in an epoch"
        assert set(seen) <= set(range(shuffle.count))
        assert 0 <= shuffle.count - len(seen) < step, "a step was left out"
        assert seen == shuffle.order(epoch)[: len(seen)].tolist()

        dropped = set(range(shuffle.count)) - set(seen)
        following = set(range(shuffle.count)) - set(in_order(train_requests(combination._replace(epoch=epoch + 1))))
        if math.comb(shuffle.count, len(dropped)) > 10_000:
            assert dropped != following, "the same samples are left out in each epoch"

        for others in {others for others in (1, 2, 3, 5, 8) if step % others == 0}:
            assert seen == in_order(train_requests(combination._replace(ranks=others, batch=step // others)))


@pytest.mark.parametrize("first", range(0, COMBINATIONS, 40))
def test_a_start_within_an_epoch_leaves_exactly_the_rest(first):
    for number in range(first, first + 40):
        combination = drawn(number)
        shuffle, batch, ranks, epoch = combination
        steps = shuffle.count // (batch * ranks)
        if steps == 0:
            continue
        whole = in_order(train_requests(combination))
        for start in {0, 1, steps // 2, steps - 1, steps} & set(range(steps + 1)):
            assert in_order(train_requests(combination, start)) == whole[start * batch * ranks :]
        sampler = TrainSampler(shuffle, batch, 0, ranks, epoch, start=1)
        rest = [request.indices.tolist() for request in sampler]
        assert [request.indices.tolist() for request in sampler] == rest, "a loader with workers may ask twice"
        assert len(sampler) == steps, "Lightning counts the epoch's progress against its whole length"
        sampler.set_epoch(epoch + 1)
        assert len(list(sampler)) == steps, "the epochs after a resumed one are whole"


@pytest.mark.parametrize("first", range(0, COMBINATIONS, 40))
def test_evaluation_is_exact_for_any_count_ranks_and_batch(first):
    for number in range(first, first + 40):
        (shuffle, batch, ranks, _) = drawn(number)
        samplers = [EvalSampler(shuffle.count, batch, rank, ranks) for rank in range(ranks)]
        found = [list(sampler) for sampler in samplers]
        assert [len(requests) for requests in found] == [len(sampler) for sampler in samplers]
        assert all(len(request.indices) == batch for requests in found for request in requests)
        seen = in_order(found)
        padding = len(seen) - shuffle.count
        assert seen == [*range(shuffle.count), *[-1] * padding] and padding < batch * ranks


def test_the_drawn_combinations_hold_what_is_hard():
    """Who changes how they are drawn shall not lose the corners."""
    combinations = [drawn(number) for number in range(COMBINATIONS)]
    assert COMBINATIONS >= 300
    counts = [c.shuffle.counts for c in combinations]
    assert {len(c) for c in counts} == set(range(1, 24)) and {c.ranks for c in combinations} == set(range(1, 9))
    assert {c.batch for c in combinations} == set(range(1, 17))
    assert sum(0 in c for c in counts) > 100, "shards that hold nothing for this training"
    assert sum(len(c) < combination.ranks for c, combination in zip(counts, combinations, strict=True)) > 20
    trainable = [c for c in combinations if c.shuffle.count >= c.batch * c.ranks]
    assert 250 < len(trainable) < COMBINATIONS
    assert sum(c.shuffle.count % (c.batch * c.ranks) == 0 for c in trainable) > 3
    assert sum(c.shuffle.count // (c.batch * c.ranks) == 1 for c in trainable) > 5


# ---- with readers


def by_workers(folder: Path, transform: Transform, sampler: StreamSampler, workers: int) -> list[Batch]:
    """Batches as a loader with that many workers makes them: each worker has a data set of its own, in turn."""
    sets = [open_dataset(folder, transform) for _ in range(max(workers, 1))]
    return [sets[number % len(sets)][request] for number, request in enumerate(sampler)]


def in_tars(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Key and pixels of the samples, (H, W, C), as they follow one another in the shards."""
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith((".png", ".jpg")):
                    content = tar.extractfile(member)
                    assert content is not None
                    yield member.name.rpartition(".")[0], np.array(Image.open(io.BytesIO(content.read())))


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@pytest.mark.parametrize("number", range(16))
def test_readers_give_each_sample_as_it_lies_in_the_tars(tmp_path, number):
    random = Random(1000 + number)
    count = random.randint(1, 70)
    folder = make_split(tmp_path / "set", count, shards=random.randint(1, min(count, 23)), seed=number)
    written = list(in_tars(folder))
    assert len(written) == count
    batch, ranks, workers = random.randint(1, 9), random.randint(1, 8), random.choice((0, 1, 3))
    steps = []
    seen: list[int] = []
    for rank in range(ranks):
        sampler = EvalSampler(count, batch, rank, ranks)
        found = by_workers(folder, CenterCrop(32), sampler, workers)
        steps.append([part.row.tolist() for part in found])
        for part in found:
            assert part.image.shape == (batch, 3, 32, 32) and part.image.dtype == torch.uint8
            assert torch.equal(part.valid, part.row >= 0)
            assert not part.image[~part.valid].any() and not part.target[~part.valid].any()
            for image, target, row in zip(part.image, part.target, part.row, strict=True):
                if row >= 0:
                    key, pixels = written[int(row)]
                    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)
                    assert int(target) == int(key[-4:]) % 3  # conftest: the label is the number in the key mod 3
        seen += [row for rows in steps[-1] for row in rows]
    assert sorted(row for row in seen if row >= 0) == list(range(count))
    ordered = [row for step in zip(*steps, strict=True) for rows in step for row in rows]
    assert ordered == [*range(count), *[-1] * (len(ordered) - count)]


@pytest.mark.parametrize("number", range(16))
def test_the_content_of_a_batch_depends_on_neither_workers_nor_the_split_into_ranks(tmp_path, number):
    random = Random(2000 + number)
    batch, ranks, steps = random.randint(1, 5), random.randint(1, 6), random.randint(1, 3)
    count = batch * ranks * steps + random.randrange(batch * ranks)
    folder = make_split(tmp_path / "set", count, shards=random.randint(1, min(count, 9)), seed=number)
    data = open_dataset(folder, PadCropFlip(32))
    shuffle = Shuffle(data.shard_counts, 0, span=random.randint(1, 9), block=random.randint(1, 9))
    assert shuffle.count == count and len(shuffle.counts) == len(load_manifest(folder).shards)
    epoch = random.randrange(5)
    alone = by_workers(folder, PadCropFlip(32), TrainSampler(shuffle, batch * ranks, 0, 1, epoch), workers=0)
    assert len(alone) == steps and len({int(row) for part in alone for row in part.row}) == steps * batch * ranks
    of_ranks = [
        by_workers(folder, PadCropFlip(32), TrainSampler(shuffle, batch, rank, ranks, epoch), random.choice((0, 1, 3)))
        for rank in range(ranks)
    ]
    joined = [Batch(*map(torch.cat, zip(*parts, strict=True))) for parts in zip(*of_ranks, strict=True)]
    assert same(alone, joined)
    assert all(part.valid.all() for part in joined)
    keys = [key for key, _ in in_tars(folder)]
    assert all(
        int(target) == int(keys[int(row)][-4:]) % 3
        for part in joined
        for target, row in zip(part.target, part.row, strict=True)
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_are_processes_change_nothing_over_two_epochs(tmp_path, workers):
    folder = make_split(tmp_path / "set", 47, shards=5)
    loaders = []
    for number in (0, workers):
        data = open_dataset(folder, PadCropFlip(32))
        sampler = TrainSampler(Shuffle(data.shard_counts, 0, span=2, block=4), 4, 1, 2)
        loaders.append((sampler, make_loader(data, sampler, number, pin_memory=False)))
    for epoch in (0, 1):
        of_loaders = []
        for sampler, loader in loaders:
            sampler.set_epoch(epoch)
            of_loaders.append([Batch(*(tensor.clone() for tensor in part)) for part in loader])
        assert len(of_loaders[0]) == 5 and same(*of_loaders)
    evaluated = [
        list(make_loader(open_dataset(folder, CenterCrop(32)), EvalSampler(47, 5, 1, 2), number, pin_memory=False))
        for number in (0, workers)
    ]
    assert len(evaluated[0]) == 5 and same(*evaluated)


@pytest.mark.parametrize("transform", [PadCropFlip(32), ResizedCropFlip(24)], ids=lambda t: type(t).__name__)
def test_an_image_looks_the_same_in_any_layout_of_shards(tmp_path, transform):
    """Augmentation is a function of (seed, epoch, key): shards, rows and neighbours have no part in it."""
    epochs = (0, 1, 7)

    def looks(shards: int, batch: int, seed: int = 3) -> dict[tuple[int, str], bytes]:
        folder = tmp_path / f"{shards}"
        if not folder.exists():
            make_split(folder, 39, shards=shards, dataset=f"set{shards}")
        data = open_dataset(folder, transform, seed)
        shuffle = Shuffle(data.shard_counts, seed=shards, span=2, block=3)
        seen = {}
        for epoch in epochs:
            for request in TrainSampler(shuffle, batch, 0, 1, epoch):
                part = data[request]
                for image, row in zip(part.image, part.row, strict=True):
                    seen[epoch, data.reader.index.key(int(row))] = image.numpy().tobytes()
        return seen

    whole, other, few = looks(1, 13), looks(11, 1), looks(4, 6)
    assert len(whole) == 3 * 39 and whole == other
    assert len(few) == 3 * 36 and few.items() <= whole.items()
    keys = {key for _, key in whole}
    assert sum(whole[0, key] != whole[1, key] for key in keys) > 30, "an epoch repeats the one before"
    reseeded = looks(1, 13, seed=4)
    assert sum(whole[sample] != reseeded[sample] for sample in whole) > 90, "the seed does nothing"
