"""Batches out of shards: which samples (a pure order), read at their place, decoded, augmented, stacked.

The sampler says (epoch, indices) for each batch and the dataset turns them into a whole `Batch`, so that a worker needs
no state: workers, their number and their survival between epochs change nothing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from en_bench.data import order
from en_bench.data.index import Index
from en_bench.data.manifest import Manifest
from en_bench.data.reader import ShardReader
from en_bench.data.transforms import Transform
from en_bench.errors import InputError

PADDING = -1


def decode(data: bytes) -> Tensor:
    """A JPEG or PNG file as a uint8 RGB image (3, H, W). Raises what Pillow raises for damaged files."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


class Batch(NamedTuple):
    """B samples. Where `valid` is False the row is padding: zeros, target 0, row -1, to be left out of every sum."""

    image: Tensor  # (B, C, H, W), uint8 from the loader, float after normalising
    target: Tensor  # (B,) int64
    valid: Tensor  # (B,) bool
    row: Tensor  # (B,) int64, the sample's row in the manifest's index


class Request(NamedTuple):
    """What the sampler asks the dataset for: the samples at positions `indices` as they look in `epoch`."""

    epoch: int
    indices: NDArray[np.int64]


def labelled_rows(manifest: Manifest, index: Index, labels: str) -> NDArray[np.int64]:
    """Rows of the index whose label in column `labels` is known, ascending: those that can train.

    Raises InputError for a column that the manifest lacks, and where no label is known.
    """
    if not manifest.columns:
        raise InputError(f"{manifest.folder} has masks and no labels: name a set of labelled images")
    if labels not in index.labels:
        raise InputError(
            f"{manifest.folder} has no label column '{labels}': choose one of {', '.join(manifest.columns)}"
        )
    rows = np.flatnonzero(index.labels[labels] >= 0)
    if not len(rows):
        raise InputError(
            f"no sample of {manifest.folder} has a label in column '{labels}': choose another column or prepare the "
            "set with that label"
        )
    return rows


class StreamDataset(Dataset[Batch]):
    """The samples of one split, a whole batch at a time.

    Augmentation is a function of (seed, epoch, key). Raises InputError for a column that the manifest lacks or that has
    unknown labels, and for an image that cannot be read or decoded.

    Args:
        manifest: of the split.
        index: what `manifest.load_index()` returned.
        labels: label column.
        transform: from a decoded image to the network's input.
        seed: of the augmentation.
        skip_unknown: samples without a label in the column take no part, instead of the error. For training: noisy
            labels outside a subset of the classes are unknown.

    Attributes:
        rows: row in the index by position in the data set, which is what requests hold.
    """

    def __init__(
        self,
        manifest: Manifest,
        index: Index,
        labels: str,
        transform: Transform,
        seed: int,
        skip_unknown: bool = False,
    ) -> None:
        self.rows = labelled_rows(manifest, index, labels)
        unknown = len(index) - len(self.rows)
        if unknown and not skip_unknown:
            raise InputError(
                f"{unknown} of {len(index)} samples of {manifest.folder} have no label in column '{labels}': "
                "choose another column or prepare the set with that label"
            )
        self.targets = index.labels[labels]
        self.keys = index.keys
        self.reader = ShardReader(manifest, index)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: Request) -> Batch:
        epoch, indices = request
        size = self.transform.size
        valid = indices != PADDING
        rows = np.where(valid, self.rows[indices], PADDING)
        image = torch.zeros(len(rows), 3, size, size, dtype=torch.uint8)
        for position in np.flatnonzero(valid):
            image[position] = self._sample(int(rows[position]), epoch)
        target = np.where(valid, self.targets[rows], 0).astype(np.int64)
        return Batch(image, torch.from_numpy(target), torch.from_numpy(valid), torch.from_numpy(rows))

    def _sample(self, i: int, epoch: int) -> Tensor:
        data = self.reader.read(i)
        key = bytes(self.keys[i])
        try:
            image = decode(data)
        except UnidentifiedImageError:  # whose message is the address of a buffer
            raise InputError(
                f"{self.reader.where(i)} cannot be decoded: not a JPEG or PNG; prepare the set again"
            ) from None
        except (OSError, SyntaxError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self.reader.where(i)} cannot be decoded: {reason}; prepare the set again") from None
        draw = hashlib.blake2b(key, digest_size=8, key=f"{self.seed}/{epoch}".encode()).digest()
        return self.transform(image, Random(int.from_bytes(draw, "little")))


class _StreamSampler(DistributedSampler[Request]):
    """Batches of one rank.

    A DistributedSampler by name only, because Lightning replaces every other kind of sampler by one of its own when
    there are several ranks; nothing of it is used but the type and `set_epoch`.
    """

    def __init__(self, count: int, batch_size: int, rank: int, ranks: int) -> None:
        self.count, self.batch_size, self.rank, self.ranks = count, batch_size, rank, ranks
        self.epoch = 0


class TrainSampler(_StreamSampler):
    """`count // (batch_size * ranks)` full batches for every rank, in the shuffled order of (seed, epoch)."""

    def __init__(self, count: int, batch_size: int, rank: int, ranks: int, seed: int) -> None:
        super().__init__(count, batch_size, rank, ranks)
        order.check_trainable(count, batch_size, ranks)
        self.seed = seed

    def __len__(self) -> int:
        return order.train_steps(self.count, self.batch_size, self.ranks)

    def __iter__(self) -> Iterator[Request]:
        epoch = self.epoch
        shuffled = order.epoch_order(self.count, self.seed, epoch)
        for step in range(len(self)):
            yield Request(epoch, order.train_batch(shuffled, step, self.rank, self.batch_size, self.ranks))


class EvalSampler(_StreamSampler):
    """Every sample exactly once over all ranks, in natural order, the end padded with -1."""

    def __len__(self) -> int:
        return order.eval_steps(self.count, self.batch_size, self.ranks)

    def __iter__(self) -> Iterator[Request]:
        for step in range(len(self)):
            yield Request(0, order.eval_batch(self.count, step, self.rank, self.batch_size, self.ranks))


class _ErrorsAsValues(Dataset[Any]):
    """The dataset, with an InputError returned in place of the batch that it prevents."""

    def __init__(self, dataset: StreamDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, request: Request) -> Batch | InputError:
        try:
            return self.dataset[request]
        except InputError as error:
            return error


class _StreamLoader(DataLoader[Any]):
    """A DataLoader that raises the errors it receives.

    What a worker raises would reach the user as the traceback of another process, so errors travel as values.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, InputError):
                raise batch
            yield batch


def _as_is(batch: Any) -> Any:
    return batch


def make_loader(dataset: StreamDataset, sampler: _StreamSampler, workers: int, pin_memory: bool) -> DataLoader[Batch]:
    """A DataLoader that passes the dataset's batches on as they are, and its InputError with its one line."""
    return _StreamLoader(
        _ErrorsAsValues(dataset),
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )
