"""The images of a prepared split, reduced to what instance-dependent noise sees of them."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from en_bench.data.cached_files import CachedFiles
from en_bench.data.index import Index
from en_bench.data.manifest import Manifest
from en_bench.data.opening import shard_files
from en_bench.data.progress import Progress
from en_bench.data.reader import ShardReader
from en_bench.data.reading_order import NaturalOrder
from en_bench.data.shard_cache import ShardCache
from en_bench.noise.base import SmallImages
from en_bench.noise.small_images import SIDE, small_image

_CHUNK = 256  # images between two looks at the progress


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
