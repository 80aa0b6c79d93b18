"""Images as instance-dependent noise sees them: 32x32 RGB, by whole-number arithmetic."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from en_bench.data.cached_files import CachedFiles
from en_bench.data.decoding import ImageFile
from en_bench.data.images import UnreadableImage
from en_bench.data.index import Index
from en_bench.data.manifest import Manifest
from en_bench.data.opening import shard_files
from en_bench.data.progress import Progress
from en_bench.data.reader import ShardReader
from en_bench.data.reading_order import NaturalOrder
from en_bench.data.shard_cache import ShardCache
from en_bench.data.views import Pixels
from en_bench.noise.base import SmallImages

SIDE = 32  # pixels
_CHUNK = 256  # images between two looks at the progress


def small_image(file: bytes) -> Pixels:
    """An image file reduced to (32, 32, 3), whatever its aspect ratio.

    The image, decoded as for training, is cut into 32 x 32 blocks: block i of H rows begins with row floor(i * H / 32)
    and ends before the next one's, with at least one row; columns likewise. A pixel of the result is the mean of its
    block, rounded to the nearest whole number, halves upwards. An image of 32x32 stays as it is, and one that cannot be
    decoded is black: whoever trains on it will say so.
    """
    try:
        pixels = ImageFile(file).pixels()
    except UnreadableImage:
        return np.zeros((SIDE, SIDE, 3), np.uint8)
    if pixels.shape[:2] == (SIDE, SIDE):
        return pixels
    (rows, heights), (columns, widths) = (_blocks(length) for length in pixels.shape[:2])
    # Of blocks that begin at the same place all but the last hold that one row alone, as `reduceat` does it.
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.int64), columns, axis=1)
    counts = (heights[:, None] * widths)[:, :, None]
    small: Pixels = ((2 * sums + counts) // (2 * counts)).astype(np.uint8)
    return small


def _blocks(length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the 32 blocks of so many rows begin, and how many each holds."""
    edges = np.arange(SIDE + 1) * length // SIDE
    return edges[:-1], np.maximum(np.diff(edges), 1)


def read_small_images(manifest: Manifest, index: Index, cache: ShardCache, rows: NDArray[np.int64]) -> SmallImages:
    """The images of these rows of the index, ascending, (n, 32, 32, 3); shards behind a URL come through the cache."""
    counts = np.bincount(index.shard[rows], minlength=len(manifest.shards))
    files = shard_files(manifest, cache, NaturalOrder(tuple(int(count) for count in counts)))
    images = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
    size = 0
    try:
        with ShardReader(manifest, index, files=files) as reader, Progress(f"{manifest.split}, for noise") as progress:
            for start in range(0, len(rows), _CHUNK):
                if isinstance(files, CachedFiles):
                    files.tell(0, start)
                for position, file in enumerate(reader.read_many(rows[start : start + _CHUNK]), start=start):
                    images[position] = small_image(file)
                    size += len(file)
                if os.environ.get("LOCAL_RANK", "0") == "0":  # one line, not one of each process
                    progress(min(start + _CHUNK, len(rows)), len(rows), size)
    finally:
        if isinstance(files, CachedFiles):
            files.close()
    return images
