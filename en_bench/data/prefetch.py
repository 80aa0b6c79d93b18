"""Shards fetched ahead by a process of its own, which needs no torch and ends with its parent.

`Prefetcher` is the parent's side. The process itself (`python -m en_bench.data.prefetch`) takes its settings from an
inherited file and then, on stdin, a line with epoch and sample whenever the run has reached another group of shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from en_bench.data.far_split import FarSplit
from en_bench.data.fetch import PATIENT, Patience
from en_bench.data.manifest import Shard
from en_bench.data.reading_order import NaturalOrder, Outlook, Reached, ReadingOrder
from en_bench.data.shard_cache import NoRoomError, Reservation, ShardCache
from en_bench.data.shuffle import Shuffle
from en_bench.errors import InputError

_ORDERS: dict[str, type[Any]] = {"Shuffle": Shuffle, "NaturalOrder": NaturalOrder}
_LANES = 2  # shards fetched at a time
_LOOK_S = 2.0  # between looks whether anybody fetches ahead
_PAUSE_S, _PAUSE_AFTER_ERROR_S = 1.0, 60.0


class Prefetcher:
    """Keeps one process per node fetching ahead for an order: whichever rank finds none starts one.

    Args:
        cache: that it fetches into, in use.
        split: whose shards it fetches.
        order: in which they are read: a Shuffle or a NaturalOrder.
        patience: with the source.
    """

    def __init__(self, cache: ShardCache, split: FarSplit, order: ReadingOrder, patience: Patience = PATIENT) -> None:
        self._cache, self._split = cache, split
        self._outlook = Outlook(order)
        what: Any = order
        self._settings = {
            "folder": str(cache.folder),
            "bound": cache.bound,
            "split": dataclasses.asdict(split),
            "order": {type(order).__name__: dataclasses.asdict(what)},
            # Its tries are not told: whoever needs a shard that it cannot have tries by itself, and says so.
            "patience": dataclasses.asdict(dataclasses.replace(patience, told=False)),
            "parent": os.getpid(),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._told: tuple[int, int] | None = None
        self._next_look = 0.0
        self._failed = False

    @property
    def pid(self) -> int | None:
        """The process that this object started, None if there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def tell(self, reached: Reached) -> None:
        """Says how far the run has read. Costs next to nothing within a group of shards."""
        if self.pid is None:
            self._forget()
            if self._failed or time.monotonic() < self._next_look:
                return
            self._next_look = time.monotonic() + _LOOK_S
            if not self._start():
                return
        group = (reached.epoch, self._outlook.group(reached))
        if group != self._told and self._say(f"{reached.epoch} {reached.sample}\n"):
            self._told = group

    def close(self) -> None:
        """Ends the process, if this object started it."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def _forget(self) -> None:
        if self._process is None:
            return
        if self._process.returncode:  # 0: another rank's was there first
            self._failed = True
            print(
                f"fetching shards ahead ended with code {self._process.returncode}: they are fetched when needed",
                file=sys.stderr,
                flush=True,
            )
        self.close()

    def _start(self) -> bool:
        lock = self._cache.begin_fetching_ahead(self._split, order_name(self._outlook.order))
        if lock is None:
            return False
        os.close(lock)  # the process takes it for itself, and ends if another is faster
        with tempfile.TemporaryFile() as settings:
            settings.write(json.dumps(self._settings).encode())
            settings.seek(0)
            number = settings.fileno()
            command = [sys.executable, "-m", __name__, str(number)]
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(number,), bufsize=0
                )
            except OSError as error:
                self._failed = True
                print(f"shards are not fetched ahead: {error.strerror}", file=sys.stderr, flush=True)
                return False
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._told = None
        return True

    def _say(self, line: str) -> bool:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
        except (BlockingIOError, BrokenPipeError):
            return False
        return True


def order_name(order: ReadingOrder) -> str:
    """Tells orders of one split apart."""
    what: Any = order
    return hashlib.sha256(json.dumps(dataclasses.asdict(what)).encode()).hexdigest()[:16]


class _FetchAhead:
    """What the threads of the process share."""

    def __init__(self, cache: ShardCache, split: FarSplit, outlook: Outlook, patience: Patience) -> None:
        self.cache, self.split, self.outlook, self.patience = cache, split, outlook, patience
        self._changed = threading.Condition()
        self._groups_ahead: dict[int, int] = {}
        self._under_way: set[int] = set()
        self._not_before: dict[int, float] = {}

    def reach(self, reached: Reached) -> None:
        with self._changed:
            self._groups_ahead = self.outlook.groups_ahead(reached)
            self._changed.notify_all()

    def run(self) -> None:
        """Fetches what is needed next, for ever."""
        while True:
            with self._changed:  # held for reserving too: what is needed sooner gets its room first
                chosen = self._reserve_next()
                if chosen is None:
                    self._changed.wait(_PAUSE_S)
                    continue
            shard, reservation = chosen
            pause = 0.0
            try:
                reservation.fetch(self.patience)
            except (InputError, OSError) as error:  # whoever needs the shard will raise it
                _say(error)
                pause = _PAUSE_AFTER_ERROR_S
            with self._changed:
                self._under_way.discard(shard)
                self._not_before[shard] = time.monotonic() + pause

    def _reserve_next(self) -> tuple[int, Reservation] | None:
        while (shard := self._next()) is not None:
            try:
                reservation = self.cache.reserve_ahead(self.split, shard, self._groups_ahead)
            except NoRoomError:
                return None
            except (InputError, OSError) as error:
                _say(error)
                self._not_before[shard] = time.monotonic() + _PAUSE_AFTER_ERROR_S
                continue
            if reservation is not None:
                self._under_way.add(shard)
                return shard, reservation
            self._not_before[shard] = time.monotonic() + _PAUSE_S  # another process is at it
        return None

    def _next(self) -> int | None:
        here, now = self.cache.present(self.split), time.monotonic()
        wanted = (shard for shard in self._groups_ahead if shard not in here and shard not in self._under_way)
        return next((shard for shard in wanted if self._not_before.get(shard, 0.0) <= now), None)


def _say(error: Exception) -> None:
    print(f"fetching ahead, which pauses for a minute: {error}", file=sys.stderr, flush=True)


def _lines(parent: int) -> Iterator[str]:
    """Lines of stdin, to its end or the parent's: children that the parent forked may hold the other end open."""
    waiting = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], 1.0)[0]:
            continue
        content = os.read(0, 2**16)
        if not content:
            return
        *lines, waiting = (waiting + content).split(b"\n")
        yield from (line.decode() for line in lines)


def main() -> None:
    """Fetches ahead until stdin ends, or at once not, if another process does it already."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # ends with its parent, which may take its time
    with os.fdopen(int(sys.argv[1])) as file:
        settings = json.load(file)
    fields = settings["split"]
    split = FarSplit(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})
    ((kind, facts),) = settings["order"].items()
    order = _ORDERS[kind](**{**facts, "counts": tuple(facts["counts"])})
    cache = ShardCache(settings["folder"], settings["bound"])
    cache.begin_use(split)
    if cache.begin_fetching_ahead(split, order_name(order)) is None:
        return
    ahead = _FetchAhead(cache, split, Outlook(order), Patience(**settings["patience"]))
    for _ in range(_LANES):
        threading.Thread(target=ahead.run, daemon=True).start()
    for line in _lines(settings["parent"]):
        epoch, sample = map(int, line.split())
        ahead.reach(Reached(epoch, sample))
    sys.stderr.flush()
    os._exit(0)  # whatever is being fetched is left behind, and found to be stale


if __name__ == "__main__":
    main()
