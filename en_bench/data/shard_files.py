"""Where a reader's open shards come from."""

import os
from typing import Protocol

from en_bench.data.manifest import Manifest


class ShardFiles(Protocol):
    """Opens shards for positioned reads. May be pickled, and inherited by a forked worker."""

    def open(self, shard: int) -> int:
        """A descriptor of the shard at this position in the manifest, which the caller closes.

        Raises OSError where the file cannot be opened, and InputError with the cure where more is known.
        """


class FolderFiles:
    """Shards that lie in the split's own folder on a disk."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def open(self, shard: int) -> int:
        path = self.manifest.place_of(self.manifest.shards[shard])
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
