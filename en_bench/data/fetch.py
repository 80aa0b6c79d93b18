"""Files over networks that fail: gone on with where a connection broke off, tried again with patience, checked.

Whatever fsspec reaches is read here, each try in a thread of its own: an implementation that hangs for ever is left
behind. Options and credentials come from the environment, as fsspec takes them: `AWS_...` variables, profiles and roles
for S3, `FSSPEC_S3_ANON=true` for public buckets, `FSSPEC_HTTP='{"headers": {...}}'`, `HF_TOKEN`.
"""

from __future__ import annotations

import hashlib
import queue
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from random import Random
from typing import Any, NamedTuple, Protocol

from en_bench.data.places import Place, reason, shown
from en_bench.errors import InputError

_WRONG_CONTENTS = 3  # downloads whose content is wrong before giving up
_SMALLEST_RANGE, _FIRST_RANGE, _LARGEST_RANGE = 2**16, 2**20, 2**24
_PROGRESS = 2**16  # bytes gained by a try that make the next failure count as the first again
# Of HTTP: garbled answers (aiohttp) and time-outs (S3), a resource that has changed, too many requests.
_RETRIED_STATUSES = {400, 408, 416, 425, 429}


@dataclass(frozen=True)
class Patience:
    """How long a source is given. The defaults wait about a minute in all.

    Attributes:
        tries: in a row that bring nothing, before giving up.
        first_wait_s: seconds before the second try, doubled for each further one, give or take a quarter.
        stall_s: seconds without a byte after which a connection is given up.
        told: whether each failure that is tried again is one line on stderr.
    """

    tries: int = 6
    first_wait_s: float = 2.0
    stall_s: float = 30.0
    told: bool = True

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return self.first_wait_s * float(2 ** (failures - 1)) * Random().uniform(0.75, 1.25)


PATIENT = Patience()


class Sink(Protocol):
    """Takes a file's bytes one after the other. A bytearray is one."""

    def extend(self, content: bytes, /) -> object: ...

    def clear(self) -> None: ...

    def __len__(self) -> int: ...


def fetch(where: Place, sink: Sink, size: int | None = None, patience: Patience = PATIENT) -> None:
    """Reads the file at a URL into `sink`, up to `size` bytes (default: what the source says), over any failures.

    Raises what the source raised last, when patience ends or when trying again
    cannot help (a file that is not there, access that is refused), and ValueError for more than `size` bytes.
    """
    failures, furthest = 0, 0
    while True:
        try:
            _try_once(where, sink, size, patience.stall_s, failures)
            return
        except Exception as error:
            if is_final(error):
                raise
            if _status(error) == 416:
                sink.clear()
            if len(sink) >= furthest + _PROGRESS:
                failures, furthest = 0, len(sink)
            failures += 1
            if failures >= patience.tries:
                raise
            wait = patience.wait_s(failures)
            if patience.told:
                what = f"{reason(error)}, at byte {len(sink)}"
                _tell(where, f"{what}: try {failures + 1} of {patience.tries} in {wait:.1f} s")
            time.sleep(wait)


def fetch_checked(where: Place, file: FileIO, size: int, sha256: str, patience: Patience = PATIENT) -> None:
    """Reads a file of known size and sha256 (hex) from a URL into the beginning of `file`.

    Raises InputError with the URL and the cure if it stays out of reach, or is wrong in three downloads, or if `file`
    cannot be written.
    """
    for attempt in range(1, _WRONG_CONTENTS + 1):
        sink = _HashedFile(file)
        try:
            fetch(where, sink, size, patience)
            found = sink.sha256()
            if found == sha256:
                return
            wrong = f"sha256 {found[:12]}… instead of {sha256[:12]}…"
        except ValueError as error:
            wrong = str(error)
        except InputError:
            raise
        except Exception as error:  # botocore, aiohttp and google-auth share no base class
            raise InputError(_complaint(where, error, patience)) from error
        if patience.told:
            _tell(where, f"{wrong} in download {attempt} of {_WRONG_CONTENTS}")
    raise InputError(
        f"{shown(where)}: {wrong} in {_WRONG_CONTENTS} downloads: it is damaged or belongs to another manifest.json; "
        "upload or prepare the split again"
    )


def is_final(error: BaseException) -> bool:
    """Whether trying again cannot help."""
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _RETRIED_STATUSES
    never = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ssl.SSLCertVerificationError)
    return isinstance(error, (*never, InputError, ImportError, _TooLongError)) or "Credentials" in type(error).__name__


class _TooLongError(ValueError):
    pass


class _Piece(NamedTuple):
    offset: int
    content: bytes


def _try_once(where: Place, sink: Sink, size: int | None, stall_s: float, failures: int) -> None:
    first_range = max(_SMALLEST_RANGE, _FIRST_RANGE >> 2 * failures)  # slow, perhaps: a range must come within stall_s
    for piece in _watched(lambda: _pieces(where, len(sink), size, stall_s, first_range), stall_s):
        if piece.offset != len(sink):  # a server without ranges begins anew
            sink.clear()
        if size is not None and len(sink) + len(piece.content) > size:
            raise _TooLongError(f"more than {size} bytes")
        sink.extend(piece.content)
    if size is not None and len(sink) < size:
        raise ConnectionError(f"it ended after {len(sink)} of {size} bytes")


def _pieces(where: Place, offset: int, size: int | None, stall_s: float, first_range: int) -> Iterator[_Piece]:
    import fsspec  # type: ignore[import-untyped]

    remote: Any = where
    # Not remote.fs: that of a parent process does not work after a fork.
    filesystem = fsspec.filesystem(remote.protocol, **remote.storage_options)
    if remote.protocol in ("http", "https"):
        yield from _streamed(filesystem, remote.path, offset, stall_s)
        return
    if size is None:
        filesystem.invalidate_cache()
        size = int(filesystem.info(remote.path)["size"])
    step = first_range
    while offset < size:
        began = time.monotonic()
        content = bytes(filesystem.cat_file(remote.path, start=offset, end=min(offset + step, size)))
        if not content:
            return
        yield _Piece(offset, content)
        offset += len(content)
        if time.monotonic() - began < 1:
            step = min(2 * step, _LARGEST_RANGE)


def _streamed(filesystem: Any, url: str, offset: int, stall_s: float) -> Iterator[_Piece]:
    """One request for all that is left: servers may ignore ranges, which only their answer shows."""
    import aiohttp

    headers = {**filesystem.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    # Longer than who waits for this: it ends what was left behind. fsspec's own limit is on the whole of an answer.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=2 * stall_s, sock_read=2 * stall_s)
    # A size, whichever, keeps fsspec from asking for it first.
    with filesystem.open(url, "rb", block_size=0, size=1, headers=headers, timeout=timeout) as file:
        if file.r.status != 206:
            offset = 0
        elif not file.r.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            raise ConnectionError("the server answered with another range than was asked for")
        while content := file.read(2**20):
            yield _Piece(offset, content)
            offset += len(content)


def _watched(pieces: Callable[[], Iterator[_Piece]], stall_s: float) -> Iterator[_Piece]:
    """What `pieces` yields, made in a thread. Raises TimeoutError if nothing comes for `stall_s`."""
    ready: queue.Queue[_Piece | BaseException | None] = queue.Queue(maxsize=4)
    left = threading.Event()

    def offer(item: _Piece | BaseException | None) -> None:
        while not left.is_set():
            try:
                ready.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def pump() -> None:
        try:
            for piece in pieces():
                offer(piece)
                if left.is_set():
                    return
            offer(None)
        except BaseException as error:
            offer(error)

    threading.Thread(target=pump, name="fetch", daemon=True).start()
    try:
        while True:
            try:
                item = ready.get(timeout=stall_s)
            except queue.Empty:
                raise TimeoutError(f"nothing came for {stall_s:g} s") from None
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return
            yield item
    finally:
        left.set()


class _HashedFile:
    """A Sink that writes a file from its beginning."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.clear()

    def clear(self) -> None:
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self._length = 0

    def extend(self, content: bytes, /) -> None:
        try:
            written = 0
            while written < len(content):
                written += self._file.write(content[written:])
        except OSError as error:
            raise InputError(
                f"{self._file.name}: {error.strerror}: make room on that disk, lower --data.cache_gb, or choose "
                "another --data.cache"
            ) from error
        self._hash.update(content)
        self._length += len(content)

    def __len__(self) -> int:
        return self._length

    def sha256(self) -> str:
        return self._hash.hexdigest()


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error stands for, in whichever way its client says it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = iter([response.get("ResponseMetadata", {}).get("HTTPStatusCode")])
    else:
        names = ("status", "status_code", "code")
        found = (getattr(owner, name, None) for owner in (error, response) for name in names)
    return next((status for status in found if isinstance(status, int) and 100 <= status < 600), None)


def _complaint(where: Place, error: Exception, patience: Patience) -> str:
    url, what = shown(where), reason(error)
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)) or _status(error) in (404, 410):
        return f"{url}: it is not there: upload the split again, or correct the URL"
    if not is_final(error):
        return (
            f"{url}: {what}, after {patience.tries} tries: check the network and the server, then give the same "
            "command again"
        )
    return f"{url}: {what}: check your access; credentials are taken from the environment"


def _tell(where: Place, what: str) -> None:
    print(f"{shown(where)}: {what}", file=sys.stderr, flush=True)
