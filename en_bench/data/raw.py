"""Raw files as they were published: a folder, or a tar, read at random."""

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from en_bench.errors import InputError

_COMPRESSED: dict[bytes, type[gzip.GzipFile] | type[lzma.LZMAFile] | type[bz2.BZ2File]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}


class RawFiles:
    """The files of a folder or of a tar (plain, .gz, .xz or .bz2), by name.

    A compressed tar is decompressed once into a temporary file (under TMPDIR), since permuted reads need seeking.
    Folders are walked through symbolic links; a tar's links, and its members with absolute or ".." paths, are never
    read. Hidden files (".DS_Store", "._x") are passed over.

    Attributes:
        path: what was opened.
        names: relative names with "/", sorted.
        refused: names in the tar that are not read, with the reason.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.refused: dict[str, str] = {}
        self._tar: IO[bytes] | None = None
        self._places: dict[str, tuple[int, int]] = {}  # name in the tar -> offset, size
        if self.path.is_dir():
            self.names = tuple(sorted(_walk(self.path)))
        elif self.path.is_file():
            try:
                self._tar = _seekable(self.path)
                self._list_tar(self._tar)
            except (tarfile.TarError, lzma.LZMAError, EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise InputError(f"{self.path}: not a whole tar ({error}): download it again") from error
            except OSError as error:
                raise InputError(
                    f"{self.path}: cannot be unpacked into {tempfile.gettempdir()} ({error.strerror or error}): "
                    "set TMPDIR to a place with room, or unpack it yourself and name the folder"
                ) from error
            self.names = tuple(sorted(self._places))
        else:
            raise InputError(f"{self.path}: no such folder or tar: correct --raw")

    def read(self, name: str) -> bytes:
        """Content of one file. Raises OSError if it cannot be read whole, KeyError if a tar has no such file."""
        if self._tar is None:
            return (self.path / name).read_bytes()
        offset, size = self._places[name]
        content = os.pread(self._tar.fileno(), size, offset)
        if len(content) != size:
            raise OSError(f"the archive ends after {len(content)} of {size} bytes")
        return content

    def _list_tar(self, file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if member.isdir() or _hidden(name):
                    continue
                if name.is_absolute() or ".." in name.parts:
                    self.refused[member.name] = "leads outside the archive"
                elif not member.isreg() or member.issparse():
                    self.refused[member.name] = "is a link or no regular file"
                else:
                    self._places[str(name)] = (member.offset_data, member.size)


def _walk(root: Path) -> list[str]:
    names = []
    visited = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        found = os.stat(folder)
        if (found.st_dev, found.st_ino) in visited:
            subfolders.clear()  # a symbolic link back to where we have been
            continue
        visited.add((found.st_dev, found.st_ino))
        relative = PurePosixPath(Path(folder).relative_to(root))
        names += [str(relative / name) for name in files if not _hidden(relative / name)]
    return names


def _hidden(name: PurePosixPath) -> bool:
    return name.name.startswith(".")


def _seekable(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(6)
    for magic, opener in _COMPRESSED.items():
        if start.startswith(magic):
            unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the reader
            with opener(path) as packed:
                shutil.copyfileobj(packed, unpacked, 2**20)
            unpacked.seek(0)
            return unpacked
    return path.open("rb")
