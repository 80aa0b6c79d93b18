"""What reads one raw file: small objects that travel to worker processes and open there what they need."""

from __future__ import annotations

import functools
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from typing import IO

from en_bench.data.places import open_remote, place, read_bytes, read_range

MAX_FILE = 2**28  # bytes; what is larger is no image, nor the arrays of a small set
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip's member: signature, length of the name and of the extra field


class DamagedFile(OSError):  # noqa: N818 - of the file, whoever reads it: it is listed, and reading goes on
    """A raw file that is not whole, or no file. Any other OSError means that the raw data are out of reach."""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """Reads a whole file, by path or URL. Raises OSError."""

    path: str

    def __call__(self) -> bytes:
        if is_url(self.path):
            return read_bytes(place(self.path))
        try:
            # A pipe must not make us wait for somebody to write into it.
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError as error:
            if os.path.lexists(self.path):
                raise DamagedFile("a link to nothing") from error
            raise
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DamagedFile("no regular file")
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise DamagedFile(f"larger than {MAX_FILE:,} bytes")
        return content


@dataclass(frozen=True, slots=True)
class SpanBytes:
    """Reads `size` bytes at `offset` of a file, such as a member of a tar, or of a tar within a tar. Raises OSError."""

    path: str
    offset: int
    size: int

    def __call__(self) -> bytes:
        content = read_span(self.path, self.offset, self.size)
        if len(content) != self.size:
            raise DamagedFile(f"the archive ends after {len(content):,} of {self.size:,} bytes")
        return content


@dataclass(frozen=True, slots=True)
class ZipBytes:
    """Reads a member of a zip whose header lies at `offset`, stored or deflated, and checks its size and checksum.

    Raises OSError.
    """

    path: str
    offset: int
    packed_size: int
    size: int
    checksum: int
    deflated: bool

    def __call__(self) -> bytes:
        header = read_span(self.path, self.offset, _LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise DamagedFile("no member of the zip lies at its place")
        _, name, extra = _LOCAL_HEADER.unpack(header)
        content = read_span(self.path, self.offset + len(header) + name + extra, self.packed_size)
        if self.deflated:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, self.size + 1)
            except zlib.error as error:
                raise DamagedFile(str(error)) from error
        if len(content) != self.size or zlib.crc32(content) != self.checksum:
            raise DamagedFile("bad checksum in the zip")
        return content


def is_url(path: str) -> bool:
    """Whether a path is a URL. A path that was made of a Path never is: it has no two slashes in a row."""
    return "://" in path


@functools.lru_cache(maxsize=64)
def opened(path: str) -> IO[bytes]:
    """A file that stays open in this process until others have taken its place."""
    if is_url(path):
        return open_remote(place(path))
    return open(path, "rb")


def read_span(path: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` of a file or URL, fewer at its end. Raises OSError."""
    if is_url(path):
        return read_range(place(path), offset, size)
    return os.pread(opened(path).fileno(), size, offset)


def forget_opened() -> None:
    """Closes what is open: a path may name another file by now."""
    opened.cache_clear()
