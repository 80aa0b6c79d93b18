"""Raw files as they were published: folders, tars, zips, and tars within them, read at random."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from en_bench.data.names import fault_of_name
from en_bench.data.places import files_below, is_file, is_folder, is_remote, place, shown
from en_bench.data.raw_bytes import MAX_FILE, FileBytes, SpanBytes, ZipBytes, forget_opened, opened
from en_bench.data.tar_members import tar_members
from en_bench.errors import InputError

_BOMB_RATIO = 100  # images hardly shrink: an archive that unpacks to more than this is none of images
_BOMB_START = 2**30  # bytes of an archive unpacked before the ratio is looked at
_BOMB_MEMBER = 2**24  # bytes of a zip's member
_Opener = Callable[[IO[bytes]], AbstractContextManager[Any]]
_COMPRESSED: dict[bytes, _Opener] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
_ZIP = b"PK\x03\x04"
_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip")  # looked into in folders
_MAX_NESTING = 4  # tars within tars
_DAMAGED = (tarfile.TarError, lzma.LZMAError, EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile)
# What the readers of archives raise on headers of somebody's own making.
_STRANGE = (MemoryError, RecursionError, ValueError, OverflowError, NotImplementedError, struct.error)


class RawFiles:
    """The files of a folder, of a tar (plain, .gz, .xz or .bz2) or of a zip, by name.

    A compressed tar is unpacked once into a temporary file (under TMPDIR), since permuted reads need seeking. Folders
    are walked through symbolic links. Hidden files (".DS_Store", "._x") are passed over.

    Never read, and listed in `refused`: links in archives, members with absolute or ".." paths, names with control
    characters or bytes that are not UTF-8, files above 256 MiB, members of a zip that unpack to over 100 times their
    size, and of several members with one name all but the last.

    Args:
        path: folder, tar or zip, or the URL of one. A large tar is better listed on disk: each header is a read.
        nested: also look into tars within a tar, and into tars and zips in a folder. A file of theirs is named by the
            whole way, `ILSVRC2012_img_train.tar/n01440764.tar/n01440764_18.JPEG`.

    Attributes:
        path: what was opened.
        names: relative names with "/", sorted.
        refused: (name, reason) of files that are not read.

    Raises InputError for what is no folder or whole archive, and for one that unpacks to over 100 times its size.
    """

    def __init__(self, path: str | os.PathLike[str], nested: bool = False) -> None:
        self.path = place(path)
        self.refused: list[tuple[str, str]] = []
        self._nested = nested
        self._sources: dict[str, Callable[[], bytes]] = {}
        self._unpacked: list[IO[bytes]] = []  # temporary files, which vanish when closed
        forget_opened()
        try:
            if is_folder(self.path):
                self._list_folder()
            elif is_file(self.path):
                self._list_archive(str(self.path), "")
            else:
                raise InputError(f"{shown(self.path)}: no such folder or archive: correct --raw")
        except OSError as error:
            raise InputError(f"{shown(self.path)}: {error.strerror or error}: make it readable") from error
        self.names = tuple(sorted(self._sources))

    @property
    def name(self) -> str:
        """Last part of the path, for provenance."""
        return shown(self.path).rpartition("/")[2] if is_remote(self.path) else self.path.resolve().name

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

    def _acceptable(self, name: str, size: int, prefix: str = "") -> bool:
        """Notes why a file of the archive that `prefix` leads to is refused, if it is."""
        path = PurePosixPath(name)
        reason = ""
        if path.is_absolute() or ".." in path.parts:
            reason = "leads outside the archive"
        elif fault_of_name(name):
            reason = fault_of_name(name)
        elif size > MAX_FILE:
            reason = f"{size:,} bytes: too large for an image"
        if reason:
            self.refused.append((prefix + name, reason))
        return not reason

    def _list_folder(self) -> None:
        for name in files_below(self.path) if is_remote(self.path) else self._walk():
            if _hidden(name):
                continue
            path = str(self.path / name)
            if self._nested and name.lower().endswith(_SUFFIXES):
                self._list_archive(path, f"{name}/")
            elif self._acceptable(name, 0):
                self._add(name, FileBytes(path))

    def _walk(self) -> Iterator[str]:
        """Relative names of the files in the folder, in an order of names: links to folders come after folders."""
        visited = set()
        for folder, subfolders, files in os.walk(self.path, followlinks=True, onerror=_raise):
            relative = PurePosixPath(Path(folder).relative_to(self.path))
            found = os.stat(folder)
            if (found.st_dev, found.st_ino) in visited:
                self.refused.append((str(relative), "a link to a folder that is read already"))
                subfolders.clear()
                continue
            visited.add((found.st_dev, found.st_ino))
            subfolders[:] = sorted(
                (name for name in subfolders if not _hidden(name)),
                key=lambda name: (os.path.islink(os.path.join(folder, name)), name),
            )
            yield from (str(relative / name) for name in sorted(files))

    def _list_archive(self, path: str, prefix: str) -> None:
        where = shown(path)
        try:
            file = opened(path)
            file.seek(0)
            start = file.read(6)
            file.seek(0)
            if start.startswith(_ZIP):
                self._list_zip(path, prefix)
            else:
                opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
                if opener is None:
                    self._list_tar(file, path, 0, prefix)
                else:
                    self._list_tar(*self._unpack(file, where, opener), 0, prefix)
        except _DAMAGED as error:
            raise InputError(
                f"{where}: not a whole archive ({error}): download it again, or name a tar, a zip or a folder"
            ) from error
        except _STRANGE as error:
            raise InputError(f"{where}: no archive that can be trusted ({type(error).__name__}: {error})") from error
        except PermissionError as error:
            raise InputError(f"{where}: {error.strerror or error}: make it readable") from error
        except OSError as error:
            raise InputError(
                f"{where}: cannot be read or unpacked into {tempfile.gettempdir()} ({error.strerror or error}): "
                "set TMPDIR to a place with room, or unpack it yourself and name the folder"
            ) from error

    def _list_tar(self, file: IO[bytes], path: str, start: int, prefix: str, depth: int = 0) -> None:
        """Lists the tar that `file` holds, which lies at `start` of the file `path`."""
        for tar, member in tar_members(file):
            if member.isdir() or _hidden(member.name):
                continue
            if not member.isreg() or member.issparse():
                self.refused.append((prefix + member.name, "is a link or no regular file"))
                continue
            name = prefix + str(PurePosixPath(member.name))
            if self._nested and depth < _MAX_NESTING and name.endswith(".tar"):
                inner = tar.extractfile(member)
                assert inner is not None
                try:
                    if self._acceptable(member.name, 0, prefix):
                        self._list_tar(inner, path, start + member.offset_data, f"{name}/", depth + 1)
                except tarfile.TarError as error:
                    raise tarfile.ReadError(f"{member.name}: {error}") from error
            elif self._acceptable(member.name, member.size, prefix):
                self._add(name, SpanBytes(path, start + member.offset_data, member.size))

    def _list_zip(self, path: str, prefix: str) -> None:
        with zipfile.ZipFile(opened(path)) as packed:
            members = packed.infolist()
        for member in members:
            if member.is_dir() or _hidden(member.filename):
                continue
            reason = ""
            if member.external_attr >> 16 & 0o170000 == 0o120000:
                reason = "is a link or no regular file"
            elif member.flag_bits & 1:
                reason = "is encrypted"
            elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                reason = "is neither stored nor deflated in the zip"
            elif member.file_size > _BOMB_MEMBER and member.file_size > _BOMB_RATIO * member.compress_size:
                reason = f"unpacks to more than {_BOMB_RATIO} times its size, which no image does"
            if reason:
                self.refused.append((prefix + member.filename, reason))
            elif self._acceptable(member.filename, member.file_size, prefix):
                deflated = member.compress_type == zipfile.ZIP_DEFLATED
                source = ZipBytes(
                    path, member.header_offset, member.compress_size, member.file_size, member.CRC, deflated
                )
                self._add(prefix + str(PurePosixPath(member.filename)), source)

    def _unpack(self, packed_file: IO[bytes], where: str, opener: _Opener) -> tuple[IO[bytes], str]:
        """A temporary file with the tar, and a name by which worker processes can open it."""
        anonymous = os.path.isdir("/proc/self/fd")
        unpacked: IO[bytes] = (
            tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as self; a kill leaves nothing behind
            if anonymous
            else tempfile.NamedTemporaryFile(prefix="en_bench-", suffix=".tar")  # noqa: SIM115
        )
        self._unpacked.append(unpacked)
        packed_size, size = packed_file.seek(0, os.SEEK_END), 0
        packed_file.seek(0)
        with opener(packed_file) as packed:
            while chunk := packed.read(2**20):
                size += len(chunk)
                if size > _BOMB_START and size > _BOMB_RATIO * packed_size:
                    raise InputError(
                        f"{where}: unpacks to more than {_BOMB_RATIO} times its size, which no images do: "
                        "unpack it yourself and name the folder, if you trust it"
                    )
                unpacked.write(chunk)
        unpacked.seek(0)
        # A file without a name is opened by workers through this process.
        name = f"/proc/{os.getpid()}/fd/{unpacked.fileno()}" if anonymous else str(unpacked.name)
        return unpacked, name


def _raise(error: OSError) -> None:
    raise error


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in PurePosixPath(name).parts)
