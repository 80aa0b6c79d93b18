"""Where a run finds the shards of its splits: on a disk, or through the cache of those behind a URL."""

from __future__ import annotations

import os
from pathlib import Path

from en_bench.data.cached_files import CachedFiles
from en_bench.data.dataset import StreamDataset
from en_bench.data.manifest import Manifest
from en_bench.data.places import is_remote
from en_bench.data.reading_order import ReadingOrder
from en_bench.data.shard_cache import ShardCache
from en_bench.data.shard_files import FolderFiles, ShardFiles


def cache_folder(cache: str | None) -> Path:
    """Where shards from elsewhere are kept: `cache` if given, else EN_BENCH_CACHE, else ~/.cache/en_bench/shards."""
    return Path(cache or os.environ.get("EN_BENCH_CACHE") or Path.home() / ".cache" / "en_bench" / "shards")


def shard_files(manifest: Manifest, cache: ShardCache, order: ReadingOrder) -> ShardFiles:
    """Where a split's open shards come from: its folder on a disk, or a cache of those behind a URL."""
    if is_remote(manifest.place_of(manifest.shards[0])):
        return CachedFiles(manifest, cache, order)
    return FolderFiles(manifest)


def check_shards_here(manifest: Manifest) -> None:
    """Shards behind URLs are checked when they are fetched, each by its hash."""
    if not is_remote(manifest.place_of(manifest.shards[0])):
        manifest.check_shards()


def described(name: str, dataset: StreamDataset) -> list[str]:
    """A line on what was opened of a set since the last call, where its shards come through the cache."""
    files = dataset.reader.files
    told = files.describe() if isinstance(files, CachedFiles) else None
    return [f"{name}: {told}"] if told else []


def close(dataset: StreamDataset) -> None:
    """Closes the shards of a set, and what fetches them."""
    dataset.reader.close()
    if isinstance(dataset.reader.files, CachedFiles):
        dataset.reader.files.close()
