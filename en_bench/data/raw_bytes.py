"""What reads one raw file: small objects that travel to worker processes and open there what they need."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, Any

from en_bench.data.places import place, read_bytes, read_range

MAX_FILE = 2**30  # bytes; what is larger is no image


@dataclass(frozen=True, slots=True)
class FileBytes:
    """Reads a whole file, by path or URL. Raises OSError."""

    path: str

    def __call__(self) -> bytes:
        if is_url(self.path):
            return read_bytes(place(self.path))
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE:
                raise OSError(f"larger than {MAX_FILE} bytes")
            return file.read()


@dataclass(frozen=True, slots=True)
class SpanBytes:
    """Reads `size` bytes at `offset` of a file, such as a member of a tar, or of a tar within a tar. Raises OSError."""

    path: str
    offset: int
    size: int

    def __call__(self) -> bytes:
        if is_url(self.path):
            content = read_range(place(self.path), self.offset, self.size)
        else:
            content = os.pread(opened(self.path).fileno(), self.size, self.offset)
        if len(content) != self.size:
            raise OSError(f"the archive ends after {len(content)} of {self.size} bytes")
        return content


@dataclass(frozen=True, slots=True)
class ZipBytes:
    """Reads a member of a zip, with its checksum. Raises OSError."""

    path: str
    name: str

    def __call__(self) -> bytes:
        try:
            return opened_zip(self.path).read(self.name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(" ".join(str(error).split())) from error


def is_url(path: str) -> bool:
    """Whether a path is a URL. A path that was made of a Path never is: it has no two slashes in a row."""
    return "://" in path


@functools.lru_cache(maxsize=64)
def opened(path: str) -> IO[bytes]:
    """A file that stays open in this process until others have taken its place."""
    if is_url(path):
        remote: Any = place(path)
        file: IO[bytes] = remote.fs.open(remote.path, "rb", block_size=2**22)
        return file
    return open(path, "rb")


@functools.lru_cache(maxsize=8)
def opened_zip(path: str) -> zipfile.ZipFile:
    """A zip that stays open in this process until others have taken its place."""
    return zipfile.ZipFile(opened(path))


def forget_opened() -> None:
    """Closes what is open: a path may name another file by now."""
    opened_zip.cache_clear()
    opened.cache_clear()
