"""The samples of a split as whole batches: read at their place, decoded, augmented, stacked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from en_bench.data.decoded_cache import DecodedCache
from en_bench.data.decoding import ImageFile, Pixels
from en_bench.data.draws import draws
from en_bench.data.images import UnreadableImage
from en_bench.data.index import Index
from en_bench.data.manifest import Manifest
from en_bench.data.reader import ShardReader
from en_bench.data.samplers import PADDING, Request
from en_bench.data.targets import NO_PART, Targets
from en_bench.data.transforms import Transform
from en_bench.data.views import render
from en_bench.errors import InputError


class Batch(NamedTuple):
    """B samples. Where `valid` is False the row holds no sample: zeros, target 0, to be left out of every sum.

    Such a row is padding (`row` is -1), or a sample that could not be decoded (`row` is that sample's).
    """

    image: Tensor  # (B, C, H, W) in channels_last memory, uint8 from the loader, float after normalising
    target: Tensor  # (B,) int64
    valid: Tensor  # (B,) bool
    row: Tensor  # (B,) int64, the sample's row in the manifest's index


class StreamDataset(Dataset[Batch]):
    """Samples of one split, a whole batch at a time.

    Augmentation is a function of (seed, epoch, key). Raises InputError for a shard that cannot be read, and for an
    image that cannot be decoded.

    Args:
        manifest: of the split.
        index: what `manifest.load_index()` returned.
        targets: class of each row of the index, as batches hold it; rows with NO_PART are in none.
        transform: from an image to the network's input.
        seed: of the augmentation.
        on_error: `raise` the error for an image that cannot be decoded, or `skip` it: its row in the batch is not
            valid, which the consumer has to count.
        decoded_cache_mb: megabytes of memory, shared by the loading processes, for decoded images. Small images of one
            size are then decoded once and not in each epoch. A set that does not fit as a whole is not kept at all.

    Attributes:
        rows: row in the index by position in the data set, which is what requests hold.
        shard_counts: how many of them lie in each shard of the manifest.
    """

    def __init__(
        self,
        manifest: Manifest,
        index: Index,
        targets: Targets,
        transform: Transform,
        seed: int,
        on_error: Literal["raise", "skip"] = "raise",
        decoded_cache_mb: int = 1024,
    ) -> None:
        self.rows = np.flatnonzero(targets != NO_PART)
        counts = np.bincount(index.shard[self.rows], minlength=len(manifest.shards))
        self.shard_counts = tuple(int(count) for count in counts)
        self.targets = targets
        self.keys = index.keys
        self.reader = ShardReader(manifest, index)
        self.transform = transform
        self.seed = seed
        self.on_error = on_error
        # Only Linux has memory that is neither a file of the user's nor bound by the size of /dev/shm.
        limit = decoded_cache_mb * 2**20 if hasattr(os, "memfd_create") else 0
        self._decoded = DecodedCache(len(self.rows), limit) if limit else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: Request) -> Batch:
        return self.read(request, torch.empty(self.shape(len(request[1])), dtype=torch.uint8))

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """Of the images of a batch in memory: (B, H, W, C), which for networks is channels_last."""
        return count, self.transform.size, self.transform.size, 3

    def read(self, request: Request, images: Tensor) -> Batch:
        """The batch that is asked for, with its images in `images`, uint8 of the `shape` for so many, overwritten."""
        epoch, positions = request
        valid = positions != PADDING
        rows = np.where(valid, self.rows[positions], PADDING)
        out = images.numpy()
        random = draws(self.keys[rows], self.seed, epoch, self.transform.draws).tolist()
        decoded = self._decoded.holds(positions) & valid if self._decoded is not None else np.zeros_like(valid)
        files = self.reader.read_many(rows[valid & ~decoded])
        for i in np.flatnonzero(valid):
            file = None if decoded[i] else next(files)
            try:
                self._fill(out[i], int(positions[i]), file, random[i])
            except UnreadableImage as error:
                if self.on_error == "raise":
                    raise InputError(
                        f"{self.reader.where(int(rows[i]))} cannot be decoded: {error}; prepare or index the set "
                        "again, or go on without it (--data.on_error skip)"
                    ) from None
                valid[i] = False
        out[~valid] = 0
        target = np.where(valid, self.targets[rows], 0).astype(np.int64)
        return Batch(
            images.permute(0, 3, 1, 2), torch.from_numpy(target), torch.from_numpy(valid), torch.from_numpy(rows)
        )

    def why_unreadable(self, row: int) -> str:
        """Reads the sample of this row of the index again; returns why it cannot be decoded."""
        try:
            ImageFile(self.reader.read(row)).pixels()
        except UnreadableImage as error:
            return str(error)
        return "it was decoded when read again"

    def _fill(self, out: Pixels, position: int, file: bytes | None, random: Sequence[float]) -> None:
        """Puts a sample into its place in the batch, `out` (size, size, 3): a file, or None if its pixels are kept.

        Raises UnreadableImage.
        """
        if file is None:
            assert self._decoded is not None
            pixels = self._decoded.get(position)
            assert pixels is not None
            view = self.transform.view(pixels.shape[0], pixels.shape[1], random)
        else:
            image = ImageFile(file)
            view = self.transform.view(image.height, image.width, random)
            # Decided by the image alone: what is damaged below a crop must not pass or fail by what was read before.
            if self._decoded is not None and self._decoded.fits(image.height, image.width):
                pixels = image.pixels()
                self._decoded.put(position, pixels)
            else:
                pixels = image.pixels(rows=view.top + view.height)
        render(pixels, view, out)
        self.transform.retouch(out, random)
