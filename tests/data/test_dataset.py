"""Batches of a split: their memory, decoded images that are kept, images that cannot be decoded."""

from __future__ import annotations

import gc
import io
import multiprocessing
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from en_bench.data.dataset import Batch, StreamDataset
from en_bench.data.images import ImageEncoder
from en_bench.data.index import Index
from en_bench.data.loader import make_loader
from en_bench.data.manifest import Manifest, Shard, load_manifest
from en_bench.data.samplers import EvalSampler, Request, TrainSampler
from en_bench.data.shuffle import Shuffle
from en_bench.data.sources import Source
from en_bench.data.targets import training_targets
from en_bench.data.transforms import CenterCrop, PadCropFlip, ResizedCropFlip, Transform
from en_bench.data.writer import write_split
from en_bench.errors import InputError
from tests.data.opened import open_dataset
from tests.data.test_draws import by_hand
from tests.data.test_views import picture
from tests.images import make_split


def batches(
    data: StreamDataset, workers: int, epochs: Iterable[int], start: str | None = None
) -> Iterator[list[Batch]]:
    """The batches of some epochs, by one loader with workers that persist, started as the system does or by `start`."""
    sampler = TrainSampler(Shuffle(data.shard_counts, 0, 2), 16, 0, 1)
    loader = make_loader(data, sampler, workers, pin_memory=False)
    loader.multiprocessing_context = start
    for epoch in epochs:
        sampler.set_epoch(epoch)
        yield list(loader)


def equal(a: Iterable[list[Batch]], b: Iterable[list[Batch]]) -> bool:
    return all(
        torch.equal(x, y)
        for epochs in zip(a, b, strict=True)
        for steps in zip(*epochs, strict=True)
        for x, y in zip(*steps, strict=True)
    )


def jpeg(shape: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(*shape)).save(out, "JPEG", quality=90)
    return out.getvalue()


def split_of(folder: Path, shapes: list[tuple[int, int]]) -> Path:
    """A split of JPEGs of these sizes (height, width)."""
    samples = [Source(f"s{i:03d}", {"given": i % 3}, partial(jpeg, s), f"s {i}") for i, s in enumerate(shapes)]
    encoder = ImageEncoder()
    write_split(
        folder,
        samples,
        dataset="drawn",
        split=folder.name,
        classes=("a", "b", "c"),
        encode=encoder,
        image=encoder.describe(),
        source={},
        shards=2,
    )
    return folder


def spoil(folder: Path, rows: Iterable[int]) -> None:
    """Overwrites the images of some samples with bytes that are no image."""
    manifest = load_manifest(folder)
    index = manifest.load_index()
    for row in rows:
        with (folder / manifest.shards[int(index.shard[row])].name).open("r+b") as file:
            file.seek(int(index.offset[row, 0]))
            file.write(b"x" * int(index.size[row, 0]))


TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "pad": lambda: PadCropFlip(32),
    "resized": lambda: ResizedCropFlip(24),
    "centre": lambda: CenterCrop(24, 30),
    "whole": lambda: CenterCrop(32),
}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_images_are_decoded_once_whatever_the_workers(tmp_path, workers):
    """Once an epoch is over, the files are needed no more: what one worker decoded the others have."""
    folder = make_split(tmp_path / "train", 96, seed=5)
    expected = list(batches(open_dataset(folder, PadCropFlip(32), decoded_cache_mb=0), 0, range(4)))
    found = []
    for epoch in batches(open_dataset(folder, PadCropFlip(32)), workers, range(4)):
        found.append(epoch)
        spoil(folder, range(96))
    assert equal(found, expected)


@pytest.mark.slow
def test_workers_that_are_not_forked_do_the_same(tmp_path):
    """As on macOS, and by default from Python 3.14 on."""
    folder = make_split(tmp_path / "train", 96, seed=5)
    expected = list(batches(open_dataset(folder, PadCropFlip(32), decoded_cache_mb=0), 0, range(3)))
    found = []
    for epoch in batches(open_dataset(folder, PadCropFlip(32)), 2, range(3), start="spawn"):
        found.append(epoch)
        spoil(folder, range(96))
    assert equal(found, expected)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_cached_or_not_a_sample_looks_the_same(shards, name):
    folder = shards / "a" / "train"
    cached, uncached = (
        open_dataset(folder, TRANSFORMS[name]()),
        open_dataset(folder, TRANSFORMS[name](), decoded_cache_mb=0),
    )
    assert equal(batches(cached, 0, (0, 1, 0)), batches(uncached, 0, (0, 1, 0)))


@pytest.mark.parametrize("limit", [0, 1, 1024])
def test_images_of_many_sizes(tmp_path, limit):
    """Those of the first one's size are kept where there is room for all, the others are decoded again."""
    shapes = [(100 + 10 * (i % 3), 240 - 20 * (i % 4)) for i in range(40)]
    folder = split_of(tmp_path / "train", shapes)
    data = open_dataset(folder, ResizedCropFlip(48), decoded_cache_mb=limit)
    reference = open_dataset(folder, ResizedCropFlip(48), decoded_cache_mb=0)
    everything = np.arange(40)
    for epoch in (0, 1, 0):
        assert torch.equal(data[Request(epoch, everything)].image, reference[Request(epoch, everything)].image)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_lies_in_memory_as_the_network_wants_it(shards, workers):
    data = open_dataset(shards / "a" / "val", CenterCrop(32))
    for batch in make_loader(data, EvalSampler(len(data), 16, 0, 1), workers, pin_memory=False):
        assert batch.image.shape == (16, 3, 32, 32) and batch.image.dtype == torch.uint8
        assert batch.image.is_contiguous(memory_format=torch.channels_last)
        assert batch.image.is_shared() is (workers > 0)
        assert (batch.target.dtype, batch.valid.dtype, batch.row.dtype) == (torch.int64, torch.bool, torch.int64)


def test_a_sample_is_what_its_own_random_numbers_say(shards):
    """Against an image read by Pillow and shifted by hand."""
    data = open_dataset(shards / "a" / "train", PadCropFlip(32))
    whole = open_dataset(shards / "a" / "train", CenterCrop(32))
    rows = np.array([3, 77, 199])
    for epoch in (0, 5):
        found, plain = data[Request(epoch, rows)], whole[Request(epoch, rows)]
        for image, original, row in zip(found.image, plain.image, rows, strict=True):
            down, right, mirror = by_hand(bytes(data.keys[row]), 0, epoch, 3)
            top, left = int(9 * down), int(9 * right)
            shifted = np.pad(original.numpy(), ((0, 0), (4, 4), (4, 4)))[:, top : top + 32, left : left + 32]
            assert np.array_equal(image.numpy(), shifted[:, :, ::-1] if mirror < 0.5 else shifted)


class Striped(CenterCrop):
    """Somebody's own: a row of the image is painted in a random colour."""

    draws = 2

    def retouch(self, image, draws):
        image[int(draws[0] * self.size)] = int(draws[1] * 256)


def test_a_transform_of_ones_own(shards):
    data, plain = open_dataset(shards / "b" / "val", Striped(32)), open_dataset(shards / "b" / "val", CenterCrop(32))
    request = Request(2, np.arange(30))
    striped, whole = data[request].image, plain[request].image
    differing = (striped != whole).any(dim=1).any(dim=2).sum(dim=1)
    assert differing.tolist() == [1] * 30
    assert torch.equal(data[request].image, striped)
    assert not torch.equal(data[Request(3, np.arange(30))].image, striped)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_ends_it_by_default(tmp_path, workers):
    folder = make_split(tmp_path / "val", 40, shards=3)
    spoil(folder, [21])
    data = open_dataset(folder, CenterCrop(32))
    where = data.reader.where(21)
    gc.collect()  # workers of other tests
    message = ""
    try:
        list(make_loader(data, EvalSampler(40, 16, 0, 1), workers, pin_memory=False))
    except InputError as error:  # pytest.raises would keep the workers alive with its traceback
        message = str(error)
    assert message == (
        f"{where} cannot be decoded: not a JPEG, PNG or WebP; prepare or index the set again, or go on without it "
        "(--data.on_error skip)"
    )
    assert not multiprocessing.active_children(), "workers that outlive the error"


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_decoded_can_be_left_out(tmp_path, workers):
    folder = make_split(tmp_path / "val", 41, shards=3)
    good = open_dataset(folder, CenterCrop(32))
    expected = [good[Request(0, np.arange(first, first + 8) % 41)] for first in range(0, 41, 8)]
    spoil(folder, [3, 8, 40])
    data = open_dataset(folder, CenterCrop(32), on_error="skip")
    found = list(make_loader(data, EvalSampler(41, 8, 0, 1), workers, pin_memory=False))
    rows = torch.cat([b.row for b in found])
    assert rows.tolist() == [*range(41), *[-1] * 7]
    valid = torch.cat([b.valid for b in found])
    assert torch.where(~valid)[0].tolist() == [3, 8, 40, *range(41, 48)]
    image, target = torch.cat([b.image for b in found]), torch.cat([b.target for b in found])
    assert not image[~valid].any() and not target[~valid].any()
    assert torch.equal(image[valid], torch.cat([b.image for b in expected])[valid])
    assert torch.equal(target[valid], torch.cat([b.target for b in expected])[valid])
    assert data.why_unreadable(8) == "not a JPEG, PNG or WebP"
    assert "read again" in data.why_unreadable(9)


def test_shards_that_are_damaged_are_never_left_out(tmp_path):
    folder = make_split(tmp_path / "val", 20, shards=1)
    shard = folder / load_manifest(folder).shards[0].name
    data = open_dataset(folder, CenterCrop(32), on_error="skip")
    shard.write_bytes(shard.read_bytes()[:30_000])
    with pytest.raises(InputError, match="the shard is cut off"):
        data[Request(0, np.arange(20))]


def test_a_large_set_is_opened_without_an_object_per_sample():
    count, per_shard = 1_300_000, 1300
    index = Index(
        keys=np.arange(count).astype("S12"),
        shard=np.repeat(np.arange(count // per_shard, dtype=np.int32), per_shard),
        offset=np.zeros((count, 1), np.int64),
        size=np.zeros((count, 1), np.int64),
        labels={"given": np.zeros(count, np.int32)},
    )
    manifest = Manifest(
        folder=Path("nowhere"),
        dataset="large",
        split="train",
        classes=("a",),
        columns=("given",),
        members=("image",),
        count=count,
        skipped=0,
        shards=tuple(Shard(f"{i}.tar", per_shard, 1, "") for i in range(count // per_shard)),
        index_sha256="",
        inputs_sha256="",
        seed=0,
        ignore_index=None,
        source={},
        image={},
        noise={},
    )
    tracemalloc.start()
    try:
        data = StreamDataset(manifest, index, training_targets(manifest, index, "given"), ResizedCropFlip(), 0)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert data.shard_counts == (per_shard,) * (count // per_shard)
    assert kept < 11 * count, "bytes per sample"
