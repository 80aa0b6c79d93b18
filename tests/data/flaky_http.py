"""A real HTTP server on loopback that fails in the ways of networks, on demand."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer.

    Attributes:
        status: instead of the file, if it is not 0.
        cut: bytes after which the connection is reset.
        stall: bytes after which nothing more comes.
        truncate: bytes that are sent, and announced, as if they were all.
        corrupt: whether one byte is another.
    """

    status: int = 0
    cut: int | None = None
    stall: int | None = None
    truncate: int | None = None
    corrupt: bool = False

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value is not None and value is not False}
        return "-".join(f"{name}{value}" for name, value in given.items() if (name, value) != ("status", 0))


@dataclass
class FlakyServer:
    """Serves a folder.

    Attributes:
        faults: per path relative to the folder, of the answers to come; those after the last are right.
        always: per path, of all answers after those of `faults`.
        ranges: whether the server knows ranges.
        seconds: that each answer takes at least.
        requests: answers begun, by path; `asked` lists them with the first byte that was asked for.
    """

    folder: Path
    port: int = 0
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    ranges: bool = True
    seconds: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)
    asked: list[tuple[str, int]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    _server: ThreadingHTTPServer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.stopped.clear()
        owner = self

        class Handler(_Handler):
            flaky = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """From then on connections are refused; `start` opens the same port again."""
        self.stopped.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def next_fault(self, name: str, first: int) -> Fault:
        with self._lock:
            self.requests[name] += 1
            self.asked.append((name, first))
            waiting = self.faults.get(name)
            return waiting.pop(0) if waiting else self.always.get(name, Fault())


class _Handler(BaseHTTPRequestHandler):
    flaky: FlakyServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        path = self.flaky.folder / unquote(urlsplit(self.path).path).lstrip("/")
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        self.end_headers()

    def do_GET(self) -> None:
        name = unquote(urlsplit(self.path).path).lstrip("/")
        first = 0
        if self.headers.get("Range") and self.flaky.ranges:
            first = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        fault = self.flaky.next_fault(name, first)
        path = self.flaky.folder / name
        if fault.status or not path.is_file():
            self.send_response(fault.status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        total = len(content)
        content = content[first:]
        if fault.corrupt:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if fault.truncate is not None:
            content = content[: fault.truncate]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{total}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        limit = min((point for point in (fault.cut, fault.stall) if point is not None), default=len(content))
        with contextlib.suppress(OSError):
            self._send(content[:limit])
            if fault.stall is not None:
                self.flaky.stopped.wait(60)
            elif fault.cut is not None:
                self.wfile.flush()
                time.sleep(0.02)  # a reset overtakes what the other side has not read
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _send(self, content: bytes) -> None:
        parts = 10 if self.flaky.seconds else 1
        size = -(-len(content) // parts)
        for part in range(parts):
            time.sleep(self.flaky.seconds / parts)
            self.wfile.write(content[part * size : (part + 1) * size])


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[FlakyServer]:
    """A server that ends with the block."""
    server = FlakyServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
