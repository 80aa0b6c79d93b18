"""Leases: at most one process works on a cell, also on a shared folder where locks do not work.

The leases of a cell are numbered. Number n + 1 is taken by creating its file, which succeeds for one, and only once
number n was given back or its holder is dead: its process is gone, or it has been silent for too long. A holder that
was silent and wakes up finds number n + 1, and writes nothing (`en_bench.lease_guard`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from en_bench.files import create, write_json
from en_bench.lease_guard import LEASE, LeaseLost, numbers, require
from en_bench.matrix.file_clock import FileClock
from en_bench.matrix.processes import Condition, condition, this_machine, this_process

FORMAT, VERSION = "en_bench.lease", 1
BEAT_SECONDS, EXPIRES_SECONDS = 15.0, 120.0
_GIVEN_BACK = 0  # the date of a lease of which no more could be written
_LOOKS, _SECONDS_BETWEEN_LOOKS = 3, 0.05

Holder = Mapping[str, Any]
"""Who holds a lease: `kind` (`local`, ...), `host`, and what the kind needs to tell whether the holder lives."""


@dataclass(frozen=True)
class Found:
    """A lease as its file tells it, if it is `readable`.

    `silence` is how many seconds ago its holder last gave a sign of life.
    """

    cell: str
    number: int
    holder: Holder
    released: bool
    silence: float
    expires_seconds: float
    readable: bool = True

    def told(self) -> str:
        """By whom, in a few words."""
        who = (
            f"process {self.holder['pid']} on {self.holder['host']}" if "pid" in self.holder else str(dict(self.holder))
        )
        return str(self.holder.get("told", who))


Judge = Callable[[Found], bool]
"""Whether the holder of a lease lives."""


def lives(found: Found) -> bool:
    """Judges a holder of kind `local`.

    A process that is seen to run lives however old its last sign seems: clocks step, and laptops wake up.
    """
    if found.holder.get("machine") == this_machine():
        process = condition(found.holder.get("process"))
        if process in (Condition.GONE, Condition.RUNS):
            return process is Condition.RUNS
    return found.silence <= found.expires_seconds  # else it was stopped, or cut off from the folder


@dataclass(frozen=True)
class Leases:
    """The leases of a matrix, in `folder`/<cell id>/<number>.json.

    `judges` tell for further kinds of holders whether they live. A holder of a kind that nobody here can judge lives.
    """

    folder: Path
    judges: Mapping[str, Judge] = field(default_factory=dict)
    beat_seconds: float = BEAT_SECONDS
    expires_seconds: float = EXPIRES_SECONDS
    clock: FileClock = field(init=False, repr=False, compare=False)
    unreturned: list[Lease] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "clock", FileClock(self.folder))

    def find(self, cell: str) -> Found | None:
        """The last lease of a cell, which may have been given back."""
        last = self._last(cell)
        return None if last is None else last[0]

    def holder(self, cell: str) -> Found | None:
        """The lease of a cell that somebody alive holds; None if it can be taken."""
        found = self.find(cell)
        return found if found is not None and self.is_held(found) else None

    def is_held(self, found: Found) -> bool:
        """Whether a lease was not given back, and its holder lives."""
        kind = str(found.holder.get("kind"))
        judge = lives if kind == "local" else self.judges.get(kind)
        return not found.released and (judge is None or judge(found))

    def take(self, cell: str, after: int = 0, holder: Holder | None = None) -> Lease | None:
        """The next lease of a cell, with a number above `after`; None if somebody holds it or was faster."""
        for lease in self.unreturned[:]:  # as long as this process runs, nobody else can tell that it has ended
            self.unreturned.remove(lease)
            lease.give_back()
        found = self.find(cell)
        if found is not None and self.is_held(found):
            return None
        number = max(0 if found is None else found.number, after) + 1
        return self._create(Lease(self, cell, number, {**(local_holder() if holder is None else holder)}))

    def adopt(self, cell: str, token: str) -> Lease | None:
        """The next lease of a cell, with the token of the last one if it is this and not given back.

        Held by this process; of several that try it at the same time one succeeds, and whoever had adopted the last
        one, and may still be at work, has lost it.
        """
        found, raw = self._last(cell) or (None, None)
        if found is None or raw is None or raw.get("token") != token or found.released:
            return None
        holder = {**found.holder, **local_holder(), "kind": found.holder["kind"]}
        first = int(raw.get("first", found.number))
        return self._create(Lease(self, cell, found.number + 1, holder, token, first))

    def _create(self, lease: Lease) -> Lease | None:
        """Makes the file of a lease; None if somebody else was faster. Those of lower numbers go."""
        lease.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            create(lease.path, json.dumps(lease.to_json(), indent=1).encode())
        except FileExistsError:
            return None
        there = numbers(lease.path.parent)
        if max(there, default=0) > lease.number:  # ours was taken and given back since we looked
            lease.path.unlink(missing_ok=True)
            return None
        for lower in there:
            if lower < lease.number:
                lease.path.with_name(f"{lower}.json").unlink(missing_ok=True)
        self._sweep(lease.path.parent)
        return lease

    def _sweep(self, cell: Path) -> None:
        """Removes what was left by processes that were killed while they wrote."""
        for name in os.listdir(cell):
            with contextlib.suppress(OSError):
                if name.startswith(".") and self.clock.now() - (cell / name).stat().st_mtime > self.expires_seconds:
                    (cell / name).unlink()

    def _last(self, cell: str) -> tuple[Found, dict[str, Any] | None] | None:
        """The last lease of a cell, and what its file says if that can be read."""
        for look in range(_LOOKS):
            if look:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            number = max(numbers(self.folder / cell), default=0)
            if not number:
                return None
            path = self.folder / cell / f"{number}.json"
            raw = self._raw(cell, number)
            with contextlib.suppress(FileNotFoundError):  # removed since the folder was listed: by a higher one
                dated = path.stat().st_mtime
                if dated == _GIVEN_BACK and raw is not None:
                    raw["released"] = True
                return self._found(cell, number, raw, self.clock.now() - dated), raw
        # The client of a shared folder lists it from memory, for up to a minute: somebody has the higher one.
        return self._found(cell, number, None, 0.0), None

    def _found(self, cell: str, number: int, raw: Mapping[str, Any] | None, silence: float) -> Found:
        if raw is None:  # another user's, or half written, where files cannot be linked: silence decides
            told = f"somebody (unreadable: {self.folder / cell / f'{number}.json'})"
            return Found(
                cell, number, {"kind": "local", "told": told}, False, silence, self.expires_seconds, readable=False
            )
        expires = float(raw.get("expires_seconds", self.expires_seconds))
        return Found(cell, number, raw["holder"], bool(raw.get("released")), silence, expires)

    def _raw(self, cell: str, number: int) -> dict[str, Any] | None:
        try:
            raw = json.loads((self.folder / cell / f"{number}.json").read_bytes())
        except (OSError, ValueError):
            return None
        whole = isinstance(raw, dict) and raw.get("format") == FORMAT and isinstance(raw.get("holder"), dict)
        return raw if whole else None


@dataclass
class Lease:
    """A cell that is ours. Entered, it beats; left, it is given back.

    `first` is the number under which this token was taken: who adopts a lease goes on with the work of all since.
    """

    leases: Leases
    cell: str
    number: int
    holder: Holder
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    first: int = 0  # 0: this one
    released: bool = False
    kept: bool = False  # when it is left by an interrupt
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _before: str | None = None

    def __post_init__(self) -> None:
        self.first = self.first or self.number

    @property
    def path(self) -> Path:
        return (self.leases.folder / self.cell / f"{self.number}.json").absolute()

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "cell": self.cell,
            "number": self.number,
            "first": self.first,
            "token": self.token,
            "holder": dict(self.holder),
            "beat_seconds": self.leases.beat_seconds,
            "expires_seconds": self.leases.expires_seconds,
            "released": self.released,
        }

    def require(self) -> None:
        """Raises LeaseLost if somebody else has taken the cell over."""
        require(self.path, self.token)

    def rewrite(self) -> None:
        """Writes what is known of the holder. Raises LeaseLost."""
        self.require()
        write_json(self.path, self.to_json())

    def give_back(self) -> None:
        """Lets others take the cell at once, or, where the folder cannot be written, once this process takes another.
        Nothing happens to a lease that was lost."""
        self.released = True
        try:
            self.rewrite()
        except LeaseLost:
            return
        except OSError:  # a full disk: a date needs no room
            try:
                os.utime(self.path, (_GIVEN_BACK, _GIVEN_BACK))
            except OSError:
                self.leases.unreturned.append(self)

    def __enter__(self) -> Lease:
        self._before = os.environ.get(LEASE)
        os.environ[LEASE] = f"{self.token}:{self.path}"
        self._ended.clear()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()
        os.environ.pop(LEASE, None)  # a command may have changed it
        if self._before is not None:
            os.environ[LEASE] = self._before
        if not (self.kept and kind is not None and issubclass(kind, KeyboardInterrupt)):
            self.give_back()

    def _beat(self) -> None:
        while not self._ended.wait(self.leases.beat_seconds):
            try:
                self.require()
                os.utime(self.path)  # needs no room on the disk
            except LeaseLost:
                return  # the work notices it, also in other processes: with its next write, of its progress if no other
            except OSError:
                continue  # a file server that is away comes back, or the lease is lost


def local_holder() -> dict[str, Any]:
    """This process as a holder."""
    return {
        "kind": "local",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": this_machine(),
        "process": this_process(),
    }
