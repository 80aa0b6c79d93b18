"""Raw files as they were published: folders, tars, zips, and tars within them, read at random."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from en_bench.errors import InputError

MAX_FILE = 2**30  # bytes; what is larger is no image
_BOMB_RATIO = 100  # images hardly shrink: an archive that unpacks to more than this is none of images
_BOMB_START = 2**30  # bytes unpacked before the ratio is looked at
_COMPRESSED: dict[bytes, type[gzip.GzipFile] | type[lzma.LZMAFile] | type[bz2.BZ2File]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
_ZIP = b"PK\x03\x04"
_BROKEN = (tarfile.TarError, lzma.LZMAError, EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class FileBytes:
    """Reads a whole file. Small when pickled, so that a worker process can be told what to read."""

    path: str

    def __call__(self) -> bytes:
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE:
                raise OSError(f"larger than {MAX_FILE} bytes")
            return file.read()


@dataclass(frozen=True, slots=True)
class SpanBytes:
    """Reads `size` bytes at `offset` of a file, such as a member of a tar, or of a tar within a tar."""

    path: str
    offset: int
    size: int

    def __call__(self) -> bytes:
        content = os.pread(_opened(self.path).fileno(), self.size, self.offset)
        if len(content) != self.size:
            raise OSError(f"the archive ends after {len(content)} of {self.size} bytes")
        return content


@dataclass(frozen=True, slots=True)
class ZipBytes:
    """Reads a member of a zip, with its checksum."""

    path: str
    name: str

    def __call__(self) -> bytes:
        try:
            return _opened_zip(self.path).read(self.name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(" ".join(str(error).split())) from error


class RawFiles:
    """The files of a folder, of a tar (plain, .gz, .xz or .bz2) or of a zip, by name.

    A compressed tar is unpacked once into a temporary file (under TMPDIR), since permuted reads need seeking. Folders
    are walked through symbolic links. Hidden files (".DS_Store", "._x") are passed over.

    Never read, and listed in `refused`: links in archives, members with absolute or ".." paths, names with line breaks
    or bytes that are not UTF-8, files above 1 GiB, and of several members with one name all but the last.

    Args:
        path: folder, tar or zip.
        nested: also look into tars within a tar, and into tars and zips in a folder. A file of theirs is named by the
            whole way, `ILSVRC2012_img_train.tar/n01440764.tar/n01440764_18.JPEG`.

    Attributes:
        path: what was opened.
        names: relative names with "/", sorted.
        refused: (name, reason) of files that are not read.

    Raises InputError for what is no folder or whole archive, and for one that unpacks to over 100 times its size.
    """

    def __init__(self, path: str | os.PathLike[str], nested: bool = False) -> None:
        self.path = Path(path)
        self.refused: list[tuple[str, str]] = []
        self._nested = nested
        self._sources: dict[str, Callable[[], bytes]] = {}
        self._unpacked: list[IO[bytes]] = []  # temporary files, which vanish when closed
        _opened.cache_clear()  # a path may name another file by now
        _opened_zip.cache_clear()
        if self.path.is_dir():
            self._list_folder()
        elif self.path.is_file():
            self._list_archive(self.path, "")
        else:
            raise InputError(f"{self.path}: no such folder or archive: correct --raw")
        self.names = tuple(sorted(self._sources))

    def source(self, name: str) -> Callable[[], bytes]:
        """What reads one file; small when pickled. It raises OSError where the file cannot be read whole.

        Raises KeyError if there is no such file.
        """
        return self._sources[name]

    def read(self, name: str) -> bytes:
        """Content of one file. Raises OSError if it cannot be read whole, KeyError if there is no such file."""
        return self._sources[name]()

    def _add(self, name: str, source: Callable[[], bytes]) -> None:
        if name in self._sources:
            self.refused.append((name, "a later member of the archive has the same name"))
        self._sources[name] = source

    def _acceptable(self, name: str, size: int) -> bool:
        """Notes why a file is refused, if it is."""
        path = PurePosixPath(name)
        reason = ""
        if path.is_absolute() or ".." in path.parts:
            reason = "leads outside the archive"
        elif not name.isprintable():
            reason = "its name holds a line break or bytes that are not UTF-8"
        elif size > MAX_FILE:
            reason = f"{size:,} bytes: too large for an image"
        if reason:
            self.refused.append((name, reason))
        return not reason

    def _list_folder(self) -> None:
        for name in _walk(self.path):
            path = self.path / name
            if self._nested and path.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip")):
                self._list_archive(path, f"{name}/")
            elif self._acceptable(name, 0):
                self._add(name, FileBytes(str(path)))

    def _list_archive(self, path: Path, prefix: str) -> None:
        try:
            with path.open("rb") as file:
                start = file.read(6)
            if start.startswith(_ZIP):
                self._list_zip(path, prefix)
            else:
                opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
                if opener is None:
                    with path.open("rb") as file:
                        self._list_tar(file, str(path), 0, prefix)
                else:
                    self._list_tar(*self._unpack(path, opener), 0, prefix)
        except _BROKEN as error:
            raise InputError(f"{path}: not a whole archive ({error}): download it again") from error
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read or unpacked into {tempfile.gettempdir()} ({error.strerror or error}): "
                "set TMPDIR to a place with room, or unpack it yourself and name the folder"
            ) from error

    def _list_tar(self, file: IO[bytes], path: str, start: int, prefix: str) -> None:
        """Lists the tar that `file` holds, which lies at `start` of the file `path`."""
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isdir() or _hidden(member.name):
                    continue
                if not member.isreg() or member.issparse():
                    self.refused.append((prefix + member.name, "is a link or no regular file"))
                    continue
                name = prefix + str(PurePosixPath(member.name))
                if self._nested and name.endswith(".tar"):
                    inner = tar.extractfile(member)
                    assert inner is not None
                    if self._acceptable(name, 0):
                        self._list_tar(inner, path, start + member.offset_data, f"{name}/")
                elif self._acceptable(member.name, member.size):
                    self._add(name, SpanBytes(path, start + member.offset_data, member.size))

    def _list_zip(self, path: Path, prefix: str) -> None:
        for member in _opened_zip(str(path)).infolist():
            if member.is_dir() or _hidden(member.filename):
                continue
            if member.external_attr >> 16 & 0o170000 == 0o120000:
                self.refused.append((prefix + member.filename, "is a link or no regular file"))
            elif member.flag_bits & 1:
                self.refused.append((prefix + member.filename, "is encrypted"))
            elif self._acceptable(member.filename, member.file_size):
                self._add(prefix + str(PurePosixPath(member.filename)), ZipBytes(str(path), member.filename))

    def _unpack(
        self, path: Path, opener: type[gzip.GzipFile] | type[lzma.LZMAFile] | type[bz2.BZ2File]
    ) -> tuple[IO[bytes], str]:
        """A temporary file with the tar, and a name by which worker processes can open it."""
        anonymous = os.path.isdir("/proc/self/fd")
        unpacked: IO[bytes] = (
            tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as self; a kill leaves nothing behind
            if anonymous
            else tempfile.NamedTemporaryFile(prefix="en_bench-", suffix=".tar")  # noqa: SIM115
        )
        self._unpacked.append(unpacked)
        packed_size, size = path.stat().st_size, 0
        with opener(path) as packed:
            while chunk := packed.read(2**20):
                size += len(chunk)
                if size > _BOMB_START and size > _BOMB_RATIO * packed_size:
                    raise InputError(
                        f"{path}: unpacks to more than {_BOMB_RATIO} times its size, which no images do: "
                        "unpack it yourself and name the folder, if you trust it"
                    )
                unpacked.write(chunk)
        unpacked.seek(0)
        # A file without a name is opened by workers through this process.
        name = f"/proc/{os.getpid()}/fd/{unpacked.fileno()}" if anonymous else str(unpacked.name)
        return unpacked, name


@functools.lru_cache(maxsize=64)
def _opened(path: str) -> IO[bytes]:
    return open(path, "rb")


@functools.lru_cache(maxsize=8)
def _opened_zip(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _walk(root: Path) -> Iterator[str]:
    visited = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        found = os.stat(folder)
        if (found.st_dev, found.st_ino) in visited:
            subfolders.clear()  # a symbolic link back to where we have been
            continue
        visited.add((found.st_dev, found.st_ino))
        relative = PurePosixPath(Path(folder).relative_to(root))
        yield from (str(relative / name) for name in files if not _hidden(name))


def _hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".")
