"""Random access to the samples of a split: one positioned read each."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from en_bench.data.index import Index
from en_bench.data.manifest import Manifest
from en_bench.data.places import shown
from en_bench.data.shard_files import FolderFiles, ShardFiles
from en_bench.data.tar_names import LONGEST_LEAD, USTAR_LEAD, belongs, lead_of, name_before_payload, names_by_tarfile
from en_bench.errors import InputError

_LARGE = 2**14  # from this size on, copying a payload once more costs more than asking the system twice


class ShardReader:
    """Reads the members of samples by position in the index.

    Shards are opened when first needed, and at most `max_open` stay open. A reader may be pickled, or inherited by a
    forked worker: each process opens its own files. Within a process it belongs to one thread.

    Args:
        manifest: of the split.
        index: what `manifest.load_index()` returned.
        max_open: files kept open at a time.
        files: where open shards come from (default: the split's folder on a disk).
    """

    def __init__(self, manifest: Manifest, index: Index, max_open: int = 64, files: ShardFiles | None = None) -> None:
        if max_open < 1:
            raise ValueError(f"max_open must be at least 1, got {max_open}")
        self.manifest = manifest
        self.index = index
        self.max_open = max_open
        self.files: ShardFiles = files or FolderFiles(manifest)
        self._open: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor, least recently used first
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self.index)

    def read(self, sample: int, member: int = 0) -> bytes:
        """Payload of one member of one sample.

        The name in the tar, read along with the payload, must be the sample's: shards of another preparation may have
        the same sizes. Raises InputError if it is not, or if the shard cannot be read or ends too early; IndexError if
        there is no such sample.
        """
        if not 0 <= sample < len(self.index):
            raise IndexError(f"sample {sample} of {len(self.index)}")
        shard = int(self.index.shard[sample])
        size, offset = int(self.index.size[sample, member]), int(self.index.offset[sample, member])
        key = bytes(self.index.keys[sample])
        lead = min(offset, lead_of(key))
        try:
            content = os.pread(self._descriptor(shard), lead + size, offset - lead)
        except OSError as error:
            raise InputError(f"{self.where(sample)}: {error.strerror}: copy or prepare it again") from error
        if len(content) != lead + size:
            raise InputError(
                f"{self.where(sample)}: {max(0, len(content) - lead)} bytes read instead of {size} at {offset}: "
                "the shard is cut off, copy or prepare it again"
            )
        name = name_before_payload(content[:lead])
        if not belongs(name, key) and not self._named_otherwise(shard, offset, key):
            found = "no file begins" if name is None else f"{name.decode(errors='replace')!r} lies"
            raise InputError(
                f"{self.where(sample)}: {found} at its place: the shards are not those of this manifest: "
                "copy or prepare the split again"
            )
        return content[lead:]

    def _named_otherwise(self, shard: int, offset: int, key: bytes) -> bool:
        """Whether headers that another tar writer made before a payload give it the name of the sample."""
        lead = min(offset, LONGEST_LEAD)
        content = os.pread(self._descriptor(shard), lead, offset - lead)
        return any(belongs(name, key) for name in names_by_tarfile(content))

    def read_many(self, samples: NDArray[np.int64], member: int = 0) -> Iterator[bytes]:
        """Payloads of one member of many samples, one after the other: what `read` returns, at less than half its cost.

        Raises what `read` raises, when it comes to the sample.
        """
        index = self.index
        shards = index.shard[samples].tolist()
        for shard in dict.fromkeys(shards):
            self._descriptor(shard)
        sizes = (index.size[samples, member] + USTAR_LEAD).tolist()
        offsets = (index.offset[samples, member] - USTAR_LEAD).tolist()
        names = np.char.add(index.keys[samples], b".").tolist()
        descriptors = map(self._open.get, shards)
        for sample, size, offset, name, descriptor in zip(
            samples.tolist(), sizes, offsets, names, descriptors, strict=True
        ):
            # Whatever is not plainly right, `read` looks at in detail, and complains of.
            first = size if size < _LARGE else USTAR_LEAD
            content = b"" if descriptor is None else os.pread(descriptor, first, offset)
            payload = b""
            if (
                descriptor is not None
                and len(content) == first
                and content.startswith(name)
                and content.startswith(b"ustar", 257)
                and not content[345]  # no prefix before the name
                and content.find(b"/", len(name), 100) < 0
            ):
                rest = first < size
                payload = os.pread(descriptor, size - first, offset + first) if rest else content[USTAR_LEAD:]
            yield payload if len(payload) == size - USTAR_LEAD else self.read(sample, member)

    def where(self, sample: int) -> str:
        """Names a sample in messages: its shard and key."""
        shard = self.manifest.shards[int(self.index.shard[sample])]
        return f"{shown(self.manifest.place_of(shard))}, sample {self.index.key(sample)!r}"

    def close(self) -> None:
        """Closes the open files. Reading opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"manifest": self.manifest, "index": self.index, "max_open": self.max_open, "files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _descriptor(self, shard: int) -> int:
        if self._pid != os.getpid():
            self.close()  # the parent's descriptors, inherited by fork: the parent keeps its own
            self._pid = os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        self._close_removed()
        while len(self._open) >= self.max_open:
            os.close(self._open.popitem(last=False)[1])
        self._open[shard] = self.files.open(shard)
        return self._open[shard]

    def _close_removed(self) -> None:
        """Closes files that were removed, as a cache does to make room: a disk keeps them until then."""
        for shard, descriptor in list(self._open.items()):
            if os.fstat(descriptor).st_nlink == 0:
                os.close(self._open.pop(shard))
