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
        self.size = 0

    def add(self, files: Iterable[tuple[str, bytes]]) -> list[int]:
        """Writes (name, payload) files; returns the offset of each payload."""
        parts: list[bytes] = []
        offsets = []
        end = self.size
        for name, payload in files:
            header = _header(name, len(payload))
            offsets.append(end + len(header))
            padding = -len(payload) % tarfile.BLOCKSIZE
            end += len(header) + len(payload) + padding
            parts += [header, payload, bytes(padding)]
        self._write(b"".join(parts))
        return offsets

    def close(self) -> str:
        """Ends the tar, makes it durable, and returns its sha256 (hex). The file stays open."""
        end = self.size + 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -end % tarfile.RECORDSIZE - self.size))
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._hash.hexdigest()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.size += len(content)


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
