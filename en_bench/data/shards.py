"""Plain POSIX tars with deterministic bytes, written front to back."""

import contextlib
import hashlib
import os
import tarfile
from pathlib import Path
from typing import BinaryIO

from en_bench.data.manifest import Shard


class ShardWriter:
    """Appends files to tars `<stem>-NNNNNN.tar` of about `shard_bytes` and knows where each payload lies.

    Headers hold no time, user or machine, so that equal content gives equal bytes. Names beyond ustar's 100 ASCII
    characters get a pax header.
    """

    def __init__(self, folder: Path, stem: str, shard_bytes: int) -> None:
        self._folder = folder
        self._stem = stem
        self._shard_bytes = shard_bytes
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._position = 0
        self._samples = 0
        self.shards: list[Shard] = []

    def add_sample(self, files: list[tuple[str, bytes]]) -> tuple[int, list[int]]:
        """Writes the (name, payload) files of one sample; returns its shard and the offset of each payload."""
        parts = [(_header(name, len(payload)), payload) for name, payload in files]
        length = sum(len(header) + len(payload) + -len(payload) % tarfile.BLOCKSIZE for header, payload in parts)
        if self._file is not None and self._position + length > self._shard_bytes:
            self.close()
        offsets = []
        for header, payload in parts:
            self._write(header)
            offsets.append(self._position)
            self._write(payload)
            self._write(bytes(-len(payload) % tarfile.BLOCKSIZE))
        self._samples += 1
        return len(self.shards), offsets

    def close(self) -> None:
        """Ends the current tar, if there is one, and makes it durable."""
        if self._file is None:
            return
        end = self._position + 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -end % tarfile.RECORDSIZE - self._position))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        name = Path(self._file.name).name
        self.shards.append(Shard(name, self._samples, self._position, self._hash.hexdigest()))
        self._file = None

    def abandon(self) -> None:
        """Lets go of the current tar as it is."""
        if self._file is not None:
            # Closing flushes; on a full disk that fails a second time, with nothing left to lose.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _write(self, content: bytes) -> None:
        if self._file is None:
            self._file = (self._folder / f"{self._stem}-{len(self.shards):06d}.tar").open("xb")
            self._hash, self._position, self._samples = hashlib.sha256(), 0, 0
        self._file.write(content)
        self._hash.update(content)
        self._position += len(content)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
