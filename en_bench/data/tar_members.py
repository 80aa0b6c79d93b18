"""The members of a tar, in their order, from a file that may be damaged or made to do harm."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO


def tar_members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Each member with the open tar that it belongs to.

    Raises TarError after the last member that could be found, unless the end mark follows it: a damaged header, which
    `tarfile` would take for the end, a cut, sizes that no file has.
    """
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                if member.size < 0:
                    raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
                tar.members.clear()  # type: ignore[attr-defined]  # or those of a large tar would fill the memory
                yield tar, member
            end = tar.offset
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"no header that can be read at byte {end:,}")
        if not block:
            raise tarfile.ReadError("it has no end mark")
    except (MemoryError, ValueError, OverflowError) as error:  # headers of somebody's own making
        raise tarfile.ReadError(f"{type(error).__name__}: {error}") from error
