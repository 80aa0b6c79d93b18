"""One shard: a plain POSIX tar with deterministic bytes, written front to back."""

from __future__ import annotations

import functools
import hashlib
import os
import tarfile
from collections.abc import Iterable
from typing import BinaryIO

_SIZE_FIELD = slice(124, 136)  # of a ustar header
_CHECKSUM_FIELD = slice(148, 156)
_NAME_LENGTH = 100


class TarWriter:
    """Appends files to a tar and knows where each payload lies.

    Headers hold no time, user or machine, so that equal content gives equal bytes. Names beyond ustar's 100 ASCII
    characters get a pax header.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._added: list[bytes] = []
        self.size = 0

    def add(self, files: Iterable[tuple[str, bytes]]) -> list[int]:
        """Appends (name, payload) files; returns the offset of each payload. They are written by `write` or `close`."""
        offsets = []
        for name, payload in files:
            header = _header(name, len(payload))
            offsets.append(self.size + len(header))
            padding = -len(payload) % tarfile.BLOCKSIZE
            self.size += len(header) + len(payload) + padding
            self._added += [header, payload, bytes(padding)]
        return offsets

    def take(self) -> list[bytes]:
        """What was added since the last call, for `write`: another thread may write while more is added."""
        taken, self._added = self._added, []
        return taken

    def write(self, taken: list[bytes]) -> None:
        """Writes what `take` returned. Calls must come in the order of the takes, one after the other."""
        content = b"".join(taken)
        self._file.write(content)
        self._hash.update(content)

    def close(self) -> str:
        """Writes the rest, ends the tar, makes it durable, and returns its sha256 (hex). The file stays open."""
        end = self.size + 2 * tarfile.BLOCKSIZE
        padding = bytes(end + -end % tarfile.RECORDSIZE - self.size)
        self.size += len(padding)
        self.write([*self.take(), padding])
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._hash.hexdigest()


def size_in_tar(files: Iterable[tuple[str, bytes]]) -> int:
    """Bytes that files take in a tar, headers included."""
    return sum(len(_header(n, len(p))) + len(p) + -len(p) % tarfile.BLOCKSIZE for n, p in files)


def _header(name: str, size: int) -> bytes:
    if not (name.isascii() and len(name) <= _NAME_LENGTH):
        return _reference_header(name, size)
    # TarInfo takes longer than hashing an image: only name, size and checksum of its header are put in here.
    header = bytearray(_template())
    header[: len(name)] = name.encode()
    header[_SIZE_FIELD] = b"%011o\0" % size
    header[_CHECKSUM_FIELD] = b"%06o\0 " % (sum(header) + 8 * ord(" "))
    return bytes(header)


@functools.lru_cache(maxsize=1)
def _template() -> bytes:
    header = bytearray(_reference_header("", 0))
    header[_CHECKSUM_FIELD] = bytes(8)
    return bytes(header)


def _reference_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
