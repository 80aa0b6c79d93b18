"""A folder of whole shards fetched from elsewhere, bounded in bytes, shared by all processes of a node.

A split's shards lie in a folder named by its manifest's digest. Under its own name a shard is complete: it was fetched
to a `.part` file, its sha256 was compared, and it was renamed. So a process may be killed at any time. Locks (flock)
are released by the kernel with their process: one per shard, so that one process fetches and the others wait; one for
making room; and one held shared by everybody who uses a split. The `.part` files are as long as their shards from the
beginning, which reserves their room. The folder belongs on a local disk: locks and deleted files that are still open
behave otherwise on NFS.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from en_bench.data.far_split import FarSplit
from en_bench.data.fetch import PATIENT, Patience, fetch_checked
from en_bench.data.locks import lock, locked
from en_bench.data.places import shown
from en_bench.errors import InputError

_LOCK, _IN_USE = ".lock", ".in-use"
_SPLIT_FOLDER = re.compile(r"[0-9a-f]{16}")
_PART = re.compile(r"\.(\d+)\.part")
_NEVER = 2**31


def gigabytes(size: int) -> str:
    """`size` bytes in GB, rounded up to three digits, as an option takes them."""
    unit = 10 ** max(0, len(str(size)) - 3)
    return f"{-(-size // unit) * unit / 1e9:.9g}"


class _Entry(NamedTuple):
    path: Path
    bytes: int
    used: float  # when, seconds


class NoRoomError(Exception):
    """All that the cache holds is needed sooner."""


class Reservation:
    """Room that is kept for one shard, and the right to fetch it, until `fetch` returns."""

    def __init__(self, download: Callable[[Patience], int], lock: contextlib.ExitStack) -> None:
        self._download, self._lock = download, lock

    def fetch(self, patience: Patience = PATIENT) -> None:
        """Fetches the shard. Raises what `ShardCache.fetch` raises."""
        with self._lock:
            os.close(self._download(patience))


class ShardCache:
    """Whole shards in a folder.

    Args:
        folder: on a local disk; made if it is not there.
        bound: bytes that it may hold. Files that were removed while a process reads them count no longer, though the
            disk keeps them until they are closed.
    """

    def __init__(self, folder: str | os.PathLike[str], bound: int) -> None:
        self.folder = Path(folder).expanduser()
        self.bound = bound

    def begin_use(self, split: FarSplit) -> int:
        """To be called before all else. The split counts as used until the descriptor that this returns is closed.

        By all who inherited it. Raises InputError if the folder cannot be written.
        """
        folder = self._folder(split)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / _LOCK):  # so that nobody removes the folder at the same time
                folder.mkdir(exist_ok=True)
                return lock(folder / _IN_USE, fcntl.LOCK_SH)
        except OSError as error:
            raise InputError(
                f"{self.folder}: {error.strerror}: choose a folder for --data.cache that can be written"
            ) from error

    def open(self, split: FarSplit, shard: int) -> int | None:
        """A descriptor of a shard that lies here, which the caller closes, else None."""
        try:
            descriptor = os.open(self._path(split, shard), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != split.shards[shard].bytes:
            os.close(descriptor)
            return None
        with contextlib.suppress(PermissionError):
            os.utime(descriptor)  # the time of its last use: many disks keep no time of access
        return descriptor

    def present(self, split: FarSplit) -> set[int]:
        """The shards that lie here."""
        sizes = {entry.path.name: entry.bytes for entry in _entries(self._folder(split))}
        return {number for number, shard in enumerate(split.shards) if sizes.get(shard.name) == shard.bytes}

    def fetch(
        self, split: FarSplit, shard: int, groups_ahead: Mapping[int, int], patience: Patience = PATIENT
    ) -> tuple[int, int]:
        """A descriptor of a shard, and the bytes fetched for it: 0 where another process was found at it or done.

        To make room, shards go in this order: those of splits that nobody uses, least recently used first; those of
        this split that are needed last; those of other splits in use, least recently used first; those of the present
        group.

        Args:
            groups_ahead: per shard the groups until it is needed, 0 for the present one. Shards that are missing are
                never needed.

        Raises InputError if the shard is larger than the bound, cannot be had, or comes out wrong.
        """
        self._check_size(split, shard)
        with locked(self._lock_of(split, shard)):
            descriptor = self.open(split, shard)
            if descriptor is not None:
                return descriptor, 0
            while not self._reserve(split, shard, groups_ahead, ahead=False):
                time.sleep(0.05)  # all that is here is being fetched
            return self._download(split, shard, patience), split.shards[shard].bytes

    def reserve_ahead(self, split: FarSplit, shard: int, groups_ahead: Mapping[int, int]) -> Reservation | None:
        """Room for a shard that is not needed yet; None if it is here or another process is at it.

        Only shards of splits that nobody uses, and those of this split that are needed later, make room. Raises
        NoRoomError if they do not, and InputError if the shard is larger than the bound.
        """
        self._check_size(split, shard)
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(locked(self._lock_of(split, shard), wait=False)):
                return None
            descriptor = self.open(split, shard)
            if descriptor is not None:
                os.close(descriptor)
                return None
            if not self._reserve(split, shard, groups_ahead, ahead=True):
                raise NoRoomError
            return Reservation(functools.partial(self._download, split, shard), stack.pop_all())

    def begin_fetching_ahead(self, split: FarSplit, order: str) -> int | None:
        """A descriptor to hold while fetching ahead for `order`; None if another process of this node holds one."""
        try:
            return lock(self._folder(split) / f".ahead-{order}", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None

    def total(self) -> int:
        """Bytes of all that lies here, and of what is being fetched."""
        return sum(entry.bytes for folder in self._split_folders() for entry in _entries(folder))

    def _check_size(self, split: FarSplit, shard: int) -> None:
        size = split.shards[shard].bytes
        if size > self.bound:
            raise InputError(
                f"{shown(split.place_of(shard))}: its {size} bytes do not fit into the cache of {self.bound}: use "
                f"--data.cache_gb {gigabytes(size)} or more"
            )

    def _download(self, split: FarSplit, shard: int, patience: Patience) -> int:
        part = self._part(split, shard)
        wanted = split.shards[shard]
        try:
            with part.open("r+b", buffering=0) as file:
                fetch_checked(split.place_of(shard), file, wanted.bytes, wanted.sha256, patience)
            descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)  # before others can see it, and remove it
            os.replace(part, self._path(split, shard))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return descriptor

    def _reserve(self, split: FarSplit, shard: int, groups_ahead: Mapping[int, int], ahead: bool) -> bool:
        """Makes the shard's .part file in its full length, if there is room. The shard's lock is held."""
        part = self._part(split, shard)
        size = split.shards[shard].bytes
        with locked(self.folder / _LOCK):
            part.unlink(missing_ok=True)  # of a process that was killed
            self._path(split, shard).unlink(missing_ok=True)  # of a wrong size, or `open` had found it
            if not self._make_room(size, split, shard, groups_ahead, ahead):
                return False
            with part.open("xb") as file:
                file.truncate(size)
            return True

    def _make_room(self, size: int, split: FarSplit, shard: int, groups_ahead: Mapping[int, int], ahead: bool) -> bool:
        own = self._folder(split)
        entries: dict[Path, list[_Entry]] = {}
        for folder in self._split_folders():
            entries[folder] = [entry for entry in _entries(folder) if not _removed_as_stale(entry.path)]
        missing = size - self.bound + sum(entry.bytes for found in entries.values() for entry in found)
        if missing <= 0:
            return True
        unused = {folder for folder in entries if folder != own and not _in_use(folder)}
        going = []
        for entry in _in_order_of_removal(entries, unused, split, own, groups_ahead, shard if ahead else None):
            going.append(entry)
            missing -= entry.bytes
            if missing <= 0:
                break
        else:
            return False
        for entry in going:
            entry.path.unlink(missing_ok=True)
        for folder in unused:
            if not _entries(folder):
                shutil.rmtree(folder, ignore_errors=True)
        return True

    def _split_folders(self) -> list[Path]:
        """Subfolders that this class made: whatever else lies in a folder that a user names is left alone."""
        return [
            path for path in self.folder.iterdir() if _SPLIT_FOLDER.fullmatch(path.name) and (path / _IN_USE).exists()
        ]

    def _folder(self, split: FarSplit) -> Path:
        return self.folder / split.digest[:16]

    def _path(self, split: FarSplit, shard: int) -> Path:
        return self._folder(split) / split.shards[shard].name

    def _part(self, split: FarSplit, shard: int) -> Path:
        return self._folder(split) / f".{shard}.part"

    def _lock_of(self, split: FarSplit, shard: int) -> Path:
        return self._folder(split) / f".{shard}.lock"


def _in_order_of_removal(
    entries: Mapping[Path, list[_Entry]],
    unused: set[Path],
    split: FarSplit,
    own: Path,
    groups_ahead: Mapping[int, int],
    ahead_of: int | None,
) -> Iterator[_Entry]:
    """Complete shards, the first to go first. With `ahead_of` only those that are needed later than that shard."""

    def whole(folder: Path) -> list[_Entry]:
        return [entry for entry in entries[folder] if not _PART.fullmatch(entry.path.name)]

    def by_use(folders: set[Path]) -> list[_Entry]:
        return sorted((entry for folder in folders for entry in whole(folder)), key=lambda entry: entry.used)

    yield from by_use(unused)
    numbers = {shard.name: number for number, shard in enumerate(split.shards)}

    def distance(entry: _Entry) -> int:
        return groups_ahead.get(numbers.get(entry.path.name, -1), _NEVER)

    mine = sorted(whole(own), key=lambda entry: (-distance(entry), entry.used))
    least = 0 if ahead_of is None else groups_ahead.get(ahead_of, _NEVER)
    yield from (entry for entry in mine if distance(entry) > least)
    if ahead_of is None:
        yield from by_use(set(entries) - unused - {own})
        yield from (entry for entry in mine if distance(entry) == 0)


def _entries(folder: Path) -> list[_Entry]:
    """Shards, whole ones and those being fetched."""
    found = []
    try:
        listed = list(os.scandir(folder))
    except FileNotFoundError:
        return []
    for entry in listed:
        if entry.name.startswith(".") and not _PART.fullmatch(entry.name):
            continue
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            found.append(_Entry(folder / entry.name, status.st_size, status.st_mtime))
    return found


def _removed_as_stale(path: Path) -> bool:
    """Removes a .part file whose process is gone: nobody holds its lock."""
    part = _PART.fullmatch(path.name)
    if not part:
        return False
    with locked(path.parent / f".{part[1]}.lock", wait=False) as held:
        if held:
            path.unlink(missing_ok=True)
        return held


def _in_use(folder: Path) -> bool:
    with locked(folder / _IN_USE, wait=False) as held:
        return not held
