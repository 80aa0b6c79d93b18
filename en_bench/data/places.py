"""Where files lie: a folder on disk, or a URL that fsspec knows (s3://, gs://, memory://, ...)."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from en_bench.errors import InputError, message_of
from en_bench.files import write_bytes

if TYPE_CHECKING:
    from en_bench.data.fetch import Patience

# A `UPath` for URLs. It has Path's methods, so that one name serves both; fsspec is imported for URLs only.
Place = Path

_T = TypeVar("_T")
_QUERY = re.compile(r"(\w+://[^\s'\"?]+)\?[^\s'\"]*")  # of a URL within a text: it may hold keys


def place(text: str | os.PathLike[str]) -> Place:
    """The place that a path or URL names. Raises InputError for a protocol that fsspec does not know or has not got."""
    if not isinstance(text, str):
        return text if is_remote(text) else Path(text)  # type: ignore[return-value]
    protocol, separator, _ = text.partition("://")
    if not separator:
        return Path(text)
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise InputError(
            f"{shown(text)}: it was given with a user or key, which end in logs: leave them to the environment"
        )
    if protocol == "file":
        return Path(text.removeprefix("file://"))
    try:
        from upath import UPath

        found = UPath(text)
        _ = found.fs  # imports the protocol's package
    except (ImportError, ValueError) as error:
        raise InputError(f"{shown(text)}: {reason(error)}: install what it names, or use a folder") from error
    return found  # type: ignore[return-value]


def is_remote(where: os.PathLike[str] | object) -> bool:
    """Whether a place is a URL."""
    return not isinstance(where, (str, Path)) and hasattr(where, "fs")


def shown(where: object) -> str:
    """A place as it may be printed: a URL without its user, password and query, which can hold keys."""
    text = str(where)
    if "://" not in text:
        return text
    parts = urlsplit(text)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def reason(error: BaseException) -> str:
    """What an error says, in one line of bounded length, without the queries of URLs."""
    text = message_of(error)
    text = _QUERY.sub(r"\1", text)
    return text if len(text) <= 200 else f"{text[:200]}…"


def read_bytes(where: Place, patience: Patience | None = None) -> bytes:
    """Content of a file; a URL is tried again with patience (default: `PATIENT`) when the way to it fails.

    Raises OSError, also where the client of a bucket raises something of its own.
    """
    if not is_remote(where):
        return where.read_bytes()
    from en_bench.data.fetch import PATIENT, fetch

    content = bytearray()
    _asked(where, lambda: fetch(where, content, patience=patience or PATIENT))
    return bytes(content)


def read_range(where: Place, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`, fewer at the end of the file. Raises OSError."""
    if not is_remote(where):
        with where.open("rb") as file:
            return os.pread(file.fileno(), size, offset)
    remote: Any = where
    return _asked(where, lambda: bytes(remote.fs.cat_file(remote.path, start=offset, end=offset + size)))


def write_file(where: Place, content: bytes) -> None:
    """Writes a file in one step: readers find the old or the new. Raises OSError."""
    if not is_remote(where):
        write_bytes(where, content)
        return
    remote: Any = where
    _asked(where, lambda: remote.fs.pipe_file(remote.path, content))


def upload(local: Path, where: Place) -> None:
    """Copies a local file to a URL, and makes sure that it came whole. Raises OSError."""
    remote: Any = where
    _asked(where, lambda: remote.fs.put_file(str(local), remote.path))
    found, expected = size_of(where), local.stat().st_size
    if found != expected:
        raise OSError(f"{shown(where)}: {found} of {expected} bytes arrived")


def size_of(where: Place) -> int:
    """Bytes of a file. Raises OSError."""
    if not is_remote(where):
        return where.stat().st_size
    remote: Any = where
    remote.fs.invalidate_cache()
    return int(_asked(where, lambda: remote.fs.size(remote.path)))


def names_in(where: Place) -> list[str]:
    """Names in a folder, sorted; none if there is no such folder. Raises OSError."""
    if not is_remote(where):
        return sorted(os.listdir(where)) if where.is_dir() else []
    remote: Any = where
    remote.fs.invalidate_cache()
    try:
        found = _asked(where, lambda: remote.fs.ls(remote.path, detail=False))
    except FileNotFoundError:
        return []
    own = remote.path.rstrip("/")
    return sorted({name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != own})


def is_folder(where: Place) -> bool:
    """Whether there is a folder. Raises OSError."""
    return _asked(where, where.is_dir)


def is_file(where: Place) -> bool:
    """Whether there is a file. Raises OSError."""
    return _asked(where, where.is_file)


def files_below(where: Place) -> list[str]:
    """Relative names of all files below a URL. Raises OSError."""
    remote: Any = where
    start = len(remote.path.rstrip("/")) + 1
    return [name[start:] for name in _asked(where, lambda: remote.fs.find(remote.path))]


def open_remote(where: Place) -> IO[bytes]:
    """A file at a URL, read in large blocks. Raises OSError when opening."""
    remote: Any = where
    file: IO[bytes] = _asked(where, lambda: remote.fs.open(remote.path, "rb", block_size=2**22))
    return file


def remove(where: Place) -> None:
    """Removes a file that may be gone already. Raises OSError."""
    if not is_remote(where):
        where.unlink(missing_ok=True)
        return
    remote: Any = where
    with contextlib.suppress(FileNotFoundError):
        _asked(where, lambda: remote.fs.rm_file(remote.path))


def _asked(where: Place, question: Callable[[], _T]) -> _T:
    """The answer, with whatever a client raises for its own reasons turned into an OSError of one line."""
    if not is_remote(where):
        return question()
    try:
        return question()
    except FileNotFoundError as error:  # whose text may hold the whole URL
        raise FileNotFoundError(errno.ENOENT, reason(error), shown(where)) from error
    except Exception as error:  # botocore, aiohttp and google-auth share no base class
        raise OSError(reason(error)) from error
