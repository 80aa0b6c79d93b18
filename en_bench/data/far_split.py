"""A split whose shards lie behind a URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from en_bench.data.manifest import Manifest, Shard
from en_bench.data.places import Place, is_remote, place
from en_bench.errors import InputError


@dataclass(frozen=True)
class FarSplit:
    """Shards behind a URL, as plain data: what fetching them needs of a manifest.

    Attributes:
        digest: of the manifest.
        folder: URL that they lie in.
        options: of its file system, beside those that the environment gives.
        shards: in the order of the manifest.
    """

    digest: str
    folder: str
    shards: tuple[Shard, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> FarSplit:
        """Raises ValueError for a manifest whose shards lie on a disk, or that was not saved."""
        folder: Any = manifest.folder if manifest.location is None else place(manifest.location)
        if not is_remote(folder) or not manifest.digest:
            raise ValueError(f"{folder}: its shards need no cache, or its manifest was not saved")
        hidden = next((shard.name for shard in manifest.shards if shard.name.startswith(".")), None)
        if hidden is not None:
            raise InputError(f"{manifest.folder}: shard {hidden!r} begins with a dot: name it otherwise")
        return cls(manifest.digest, str(folder), manifest.shards, dict(folder.storage_options))

    def place_of(self, shard: int) -> Place:
        """Where a shard lies."""
        from upath import UPath

        found: Place = UPath(self.folder, **self.options) / self.shards[shard].name
        return found
