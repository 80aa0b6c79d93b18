"""Random access to the samples of a split: one positioned read each."""

import os
import tarfile
from collections import OrderedDict
from typing import Any, Self

from en_bench.data.index import Index
from en_bench.data.manifest import Manifest
from en_bench.errors import InputError

# Before the payload stands its ustar header. A name that is not ASCII, or longer than the header's field, stands in a
# pax header before that: a header of its own and, as keys have at most 240 bytes, one block of records.
_USTAR_LEAD = tarfile.BLOCKSIZE
_PAX_LEAD = 3 * tarfile.BLOCKSIZE


class ShardReader:
    """Reads the members of samples by position in the index.

    Shards are opened when first needed, and at most `max_open` stay open. A reader may be pickled, or inherited by a
    forked worker: each process opens its own files. Within a process it belongs to one thread.

    Args:
        manifest: of the split.
        index: what `manifest.load_index()` returned.
        max_open: files kept open at a time.
    """

    def __init__(self, manifest: Manifest, index: Index, max_open: int = 64) -> None:
        if max_open < 1:
            raise ValueError(f"max_open must be at least 1, got {max_open}")
        self.manifest = manifest
        self.index = index
        self.max_open = max_open
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
        lead = min(offset, _USTAR_LEAD if _fits_ustar(key) else _PAX_LEAD)
        try:
            content = os.pread(self._descriptor(shard), lead + size, offset - lead)
        except OSError as error:
            raise InputError(f"{self.where(sample)}: {error.strerror}: copy or prepare it again") from error
        if len(content) != lead + size:
            raise InputError(
                f"{self.where(sample)}: {max(0, len(content) - lead)} bytes read instead of {size} at {offset}: "
                "the shard is cut off, copy or prepare it again"
            )
        name = _member_name(content[:lead])
        if not _belongs(name, key):
            found = "no file begins" if name is None else f"{name.decode(errors='replace')!r} lies"
            raise InputError(
                f"{self.where(sample)}: {found} at its place: the shards are not those of this manifest: "
                "copy or prepare the split again"
            )
        return content[lead:]

    def where(self, sample: int) -> str:
        """Names a sample in messages: its shard and key."""
        shard = self.manifest.shards[int(self.index.shard[sample])]
        return f"{self.manifest.folder / shard.name}, sample {self.index.key(sample)!r}"

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
        return {"manifest": self.manifest, "index": self.index, "max_open": self.max_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _descriptor(self, shard: int) -> int:
        if self._pid != os.getpid():
            self.close()  # the parent's descriptors, inherited by fork: the parent keeps its own
            self._pid = os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        while len(self._open) >= self.max_open:
            os.close(self._open.popitem(last=False)[1])
        path = self.manifest.folder / self.manifest.shards[shard].name
        self._open[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[shard]


def _fits_ustar(key: bytes) -> bool:
    return key.isascii() and len(key) + len(".jpg") <= tarfile.LENGTH_NAME


def _member_name(lead: bytes) -> bytes | None:
    """Name in the tar headers `lead` that stand right before a payload, None if they are no headers."""
    ustar = lead[-tarfile.BLOCKSIZE :]
    if ustar[257:262] != b"ustar":
        return None
    pax = lead[-_PAX_LEAD:-_USTAR_LEAD]
    if len(pax) == 2 * tarfile.BLOCKSIZE and pax[257:262] == b"ustar" and pax[156:157] == tarfile.XHDTYPE:
        records = pax[tarfile.BLOCKSIZE :].rstrip(b"\0").split(b"\n")  # "<length> <keyword>=<value>"
        for record in records:
            keyword, _, value = record.partition(b" ")[2].partition(b"=")
            if keyword == b"path":
                return value
    name, prefix = (field.partition(b"\0")[0] for field in (ustar[:100], ustar[345:500]))
    return prefix + b"/" + name if prefix else name


def _belongs(name: bytes | None, key: bytes) -> bool:
    """Whether `name` is the key and an extension. The last part of a key has no dot."""
    return name is not None and name.startswith(key + b".") and b"/" not in name[len(key) :]
