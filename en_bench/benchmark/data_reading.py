"""What a process of its own reads, decodes and augments, against the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from en_bench.benchmark import data_decoding, data_peers
from en_bench.benchmark.data_decoding import SEED, Read
from en_bench.benchmark.data_recipe import Recipe, Stage
from en_bench.data.dataset import StreamDataset
from en_bench.data.loader import make_loader
from en_bench.data.manifest import GIVEN, load_manifest
from en_bench.data.samplers import EvalSampler, TrainSampler
from en_bench.data.shuffle import Shuffle, shuffle_of
from en_bench.data.targets import training_targets


def read(
    work: str, folder: str, size: int, padded: bool, stage: Stage, batch: int, workers: int, seconds: float
) -> dict[str, Any]:
    """Seconds per image of the first epoch and of those after it, which go on until `seconds` are over.

    The clock of an epoch starts when every worker has given a batch, so that starting them, or whatever else a maker
    does before there is something, does not count.
    """
    reads = _WORKS[work](Path(folder), Recipe(size, padded), stage, batch, workers)
    first, start = _timed(reads, 0, max(1, workers))
    later = [first] if seconds <= 0 else []
    while seconds > 0 and (not later or sum(took for took, _ in later) < seconds):
        later.append(_timed(reads, len(later) + 1, max(1, workers))[0])
    images = sum(count for _, count in later)
    return {
        "first": first[0] / first[1],
        "later": sum(took for took, _ in later) / images,
        "images": first[1],
        "start": start,
    }


def _timed(reads: Read, epoch: int, skipped: int) -> tuple[tuple[float, int], float]:
    """Seconds and images after the first batches, and the seconds that those took."""
    begin = time.perf_counter()
    batches = iter(reads(epoch))
    for _ in range(skipped):
        next(batches)
    start = time.perf_counter()
    images = sum(batches)
    return (time.perf_counter() - start, images), start - begin


def open_stream(folder: Path, recipe: Recipe, stage: Stage) -> StreamDataset:
    """The data set of a split as a training makes it.

    Large images are not kept decoded: a few thousand might fit into memory, which stand for millions that do not.
    """
    manifest = load_manifest(folder)
    index, transform = manifest.load_index(), recipe.ours(stage)
    made = partial(StreamDataset, manifest, index, training_targets(manifest, index, GIVEN), transform, SEED)
    return made() if recipe.padded else made(decoded_cache_mb=0)


def training_order(dataset: StreamDataset) -> Shuffle:
    """Of a data set, as a training makes it."""
    return shuffle_of(dataset.shard_counts, SEED, dataset.reader.manifest.seed is not None)


def _stream(folder: Path, recipe: Recipe, stage: Stage, batch: int, workers: int) -> Read:
    dataset = open_stream(folder, recipe, stage)
    sampler: TrainSampler | EvalSampler
    if stage == "train":
        sampler = TrainSampler(training_order(dataset), batch, 0, 1)
    else:
        sampler = EvalSampler(len(dataset), batch, 0, 1)
    loader = make_loader(dataset, sampler, workers, pin_memory=False)

    def reads(epoch: int) -> Iterator[int]:
        sampler.set_epoch(epoch)
        for loaded in loader:
            yield int(loaded.valid.sum())

    return reads


def _standard(folder: Path, recipe: Recipe, stage: Stage, batch: int, workers: int) -> Read:
    return data_peers.standard_loader(folder, recipe, stage, batch, workers, SEED)


def _bytes(folder: Path, recipe: Recipe, stage: Stage, batch: int, workers: int) -> Read:
    return _one_by_one(_samples(folder, recipe, batch))


def _samples(folder: Path, recipe: Recipe, batch: int) -> Callable[[int], Iterator[data_peers.Sample]]:
    """Ours, in the order of a training, not decoded."""
    dataset = open_stream(folder, recipe, "train")
    shuffle, targets = training_order(dataset), dataset.targets

    def samples(epoch: int) -> Iterator[data_peers.Sample]:
        rows = dataset.rows[shuffle.order(epoch)]
        for first in range(0, len(rows), batch):
            chosen = rows[first : first + batch]
            yield from zip(dataset.reader.read_many(chosen), targets[chosen].tolist(), strict=True)

    return samples


def _peer_bytes(name: str) -> Callable[..., Read]:
    def opened(folder: Path, recipe: Recipe, stage: Stage, batch: int, workers: int) -> Read:
        return _one_by_one(data_peers.READERS[name](folder, batch, SEED))

    return opened


def _one_by_one(samples: Callable[[int], Iterator[data_peers.Sample]]) -> Read:
    def reads(epoch: int) -> Iterator[int]:
        for _ in samples(epoch):
            yield 1

    return reads


def _peer_decoded(name: str) -> Callable[..., Read]:
    def opened(folder: Path, recipe: Recipe, stage: Stage, batch: int, workers: int) -> Read:
        return _decoded(data_peers.READERS[name](folder, batch, SEED), recipe, stage, batch)

    return opened


def _same_decoder(folder: Path, recipe: Recipe, stage: Stage, batch: int, workers: int) -> Read:
    return _decoded(_samples(folder, recipe, batch), recipe, stage, batch)


def _decoded(samples: Callable[[int], Iterable[data_peers.Sample]], recipe: Recipe, stage: Stage, batch: int) -> Read:
    """Decoded and augmented by torchvision, on uint8, and stacked."""
    change = recipe.tensors(stage)

    def reads(epoch: int) -> Iterator[int]:
        images: list[Tensor] = []
        labels: list[int] = []
        for payload, label in samples(epoch):
            images.append(change(payload))
            labels.append(label)
            if len(images) == batch:
                yield _stacked(images, labels)
                images, labels = [], []
        if images:
            yield _stacked(images, labels)

    return reads


def _stacked(images: list[Tensor], labels: list[int]) -> int:
    return min(len(torch.stack(images)), len(torch.tensor(labels)))


_WORKS: dict[str, Callable[[Path, Recipe, Stage, int, int], Read]] = {
    "stream": _stream,
    "standard": _standard,
    "alone": data_decoding.alone,
    "gpu": data_decoding.on_device,
    "bytes": _bytes,
    "same decoder": _same_decoder,
    **{f"{name} bytes": _peer_bytes(name) for name in data_peers.PEERS},
    **{f"{name} decoded": _peer_decoded(name) for name in data_peers.PEERS},
}
