"""A shard read once from front to back, from a disk or a URL: hashed on its way to whoever parses it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import queue
import tarfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, cast

from en_bench.data.fetch import fetch, is_final
from en_bench.data.places import Place, is_remote, reason, shown
from en_bench.errors import InputError

_CHUNK = 2**22  # bytes read from a disk at a time
_AHEAD = 8  # pieces of a download that may wait to be parsed
_KEPT = 2 * tarfile.BLOCKSIZE  # bytes behind the last chunk that can still be gone back to
_LARGEST_READ = 2**28  # no file of a sample, and no header, is larger
_SECONDS_PER_LOOK = 0.5


class Restarted(Exception):  # noqa: N818 - no error: what was read is void, and the stream begins anew
    """A server that serves no ranges lost the connection, and sends the file from its beginning."""


class ShardStream(io.BufferedIOBase):
    """A file that can be read forwards, once; `seek` passes over bytes, which are hashed like those that are read.

    It can go back by one block, as `tar_members` does at the end. Beyond the end of the file `seek` stays at the end.

    Args:
        chunks: the file's content.
        passed: called with the number of bytes of each chunk.
    """

    def __init__(self, chunks: Iterator[bytes], passed: Callable[[int], None] = lambda size: None) -> None:
        self._chunks, self._passed = chunks, passed
        self._hash = hashlib.sha256()
        self._window, self._start, self._position = b"", 0, 0

    @property
    def sha256(self) -> str:
        """Of all that came, hex."""
        return self._hash.hexdigest()

    @property
    def end(self) -> int:
        """Bytes that came so far."""
        return self._start + len(self._window)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or position < self._start:
            raise io.UnsupportedOperation(f"a stream at byte {self._position} does not go back to {position}")
        while position > self.end and self._advance():
            pass
        self._position = min(position, self.end)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _LARGEST_READ:
            raise tarfile.ReadError(f"a file or header of {size:,} bytes at byte {self._position:,}")
        parts, missing = [], size
        while missing:
            begin = self._position - self._start
            part = self._window[begin : begin + missing]
            if not part and not self._advance():
                break
            parts.append(part)
            self._position += len(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def only_zeros_follow(self) -> bool:
        """Reads the rest, and says whether it holds nothing but the zeros that may follow the end of a tar."""
        clean = True
        while True:
            clean = clean and not self._window[self._position - self._start :].strip(b"\0")
            self._position = self.end
            if not self._advance():
                return clean

    def _advance(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._hash.update(chunk)
        self._passed(len(chunk))
        kept = self._window[-_KEPT:]
        self._start = self.end - len(kept)
        self._window = kept + chunk
        return True


@contextlib.contextmanager
def opened_shard(where: Place) -> Iterator[Callable[[], Iterator[bytes]]]:
    """What yields the content of a shard in chunks. They may raise Restarted: called again, it begins anew.

    Raises InputError with the place and the cure where it cannot be read; a URL is tried again and again before that.
    """
    if is_remote(where):
        download = _Download(where)
        try:
            yield download.chunks
        finally:
            download.stop()
        return
    try:
        with where.open("rb") as file:
            yield lambda: iter(lambda: file.read(_CHUNK), b"")
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file: correct the path or the pattern") from error
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}: make it readable") from error


def check_reachable(where: Place) -> None:
    """Raises InputError as `opened_shard` does, if not even the beginning of a shard can be read."""
    with opened_shard(where) as begin, contextlib.suppress(Restarted):
        next(begin(), None)


def as_file(stream: ShardStream) -> IO[bytes]:
    """The stream as typed code takes files."""
    return cast("IO[bytes]", stream)


class _Download:
    """A file from a URL on its way: `fetch` fills it in a thread. It is the Sink of `fetch`."""

    def __init__(self, where: Place) -> None:
        self._where = where
        self._length = 0
        self._pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="download", daemon=True).start()

    def chunks(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, Restarted):
                raise piece
            if isinstance(piece, BaseException):
                raise _unreachable(self._where, piece)
            yield piece

    def stop(self) -> None:
        self._stopped.set()

    def extend(self, content: bytes, /) -> None:
        self._length += len(content)
        self._offer(content)

    def clear(self) -> None:
        if self._length:
            self._offer(Restarted())
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def _run(self) -> None:
        try:
            fetch(self._where, self)
        except BaseException as error:
            self._offer(error, last=True)
        else:
            self._offer(None, last=True)

    def _offer(self, item: bytes | BaseException | None, last: bool = False) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._pieces.put(item, timeout=_SECONDS_PER_LOOK)
                return
        if not last:
            raise InputError(f"{shown(self._where)}: nobody reads it any more")  # ends `fetch`


def _unreachable(where: Place, error: BaseException) -> InputError:
    if isinstance(error, InputError):
        return error
    if isinstance(error, FileNotFoundError):
        return InputError(f"{shown(where)}: it is not there: correct the URL or the pattern")
    if is_final(error):
        return InputError(f"{shown(where)}: {reason(error)}: check your access; credentials come from the environment")
    return InputError(f"{shown(where)}: {reason(error)}: see to the connection and run again")
