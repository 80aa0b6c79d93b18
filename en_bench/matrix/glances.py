"""Looking at the leases of many cells again and again, on a folder where each request may take milliseconds."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from en_bench.matrix.lease import Found, Leases

_SECONDS_OF_A_DATE = 2.0  # file systems round the dates of files
Visited = TypeVar("Visited")


@dataclass
class Glances:
    """Tells of leases what `Leases` does, for who looks often: reads again only what has changed since its last look.

    A lease that was given back takes one request, one that is held two. To take one, ask `Leases`.
    """

    leases: Leases
    _known: dict[str, tuple[int, Found]] = field(default_factory=dict, repr=False)  # with the date of the cell's folder

    def find(self, cell: str) -> Found | None:
        """The last lease of a cell, which may have been given back."""
        folder = self.leases.folder / cell
        try:
            changed = os.stat(folder).st_mtime_ns  # by all that happens to a lease, except for signs of life
        except FileNotFoundError:
            return None
        known = self._known.pop(cell, None)
        found = None
        if known is not None and known[0] == changed:
            found = self._later(known[1])
        if found is None:
            found = self.leases.find(cell)
        settled = self.leases.clock.now() - changed / 1e9 > _SECONDS_OF_A_DATE
        if settled and found is not None and found.readable:
            self._known[cell] = changed, found
        return found

    def holder(self, cell: str) -> Found | None:
        """The lease of a cell that somebody alive holds."""
        found = self.find(cell)
        return found if found is not None and self.leases.is_held(found) else None

    def _later(self, found: Found) -> Found | None:
        """The same lease with the silence of now; None if it is there no more."""
        if found.released:
            return found
        try:
            dated = os.stat(self.leases.folder / found.cell / f"{found.number}.json").st_mtime
        except FileNotFoundError:
            return None
        return None if dated == 0 else replace(found, silence=self.leases.clock.now() - dated)


@dataclass
class Rounds(Generic[Visited]):
    """Visits a number of things every few `seconds`, for no more than a `share` of the time.

    A round that takes long is done in slices of `slice_seconds`, so that whoever calls can do something else between.
    """

    seconds: float
    share: float = 0.1
    slice_seconds: float = 0.1
    _left: deque[Visited] | None = field(default=None, repr=False)
    _next_round: float = -math.inf
    _rests_until: float = -math.inf  # as the share asks for

    @property
    def seconds_to_wait(self) -> float:
        """Until something would be visited."""
        due = self._rests_until if self._left is not None else max(self._next_round, self._rests_until)
        return max(0.0, due - time.monotonic())

    def go(self, things: Callable[[], Iterable[Visited]], visit: Callable[[Visited], None]) -> bool:
        """Goes on with a round, or begins one with `things` if it is time; whether one has ended with it.

        What one of them raises ends a round.
        """
        if self.seconds_to_wait:
            return False
        left, self._left = self._left, None
        with self._timed() as began:
            if left is None:
                self._next_round = began + self.seconds
                left = deque(things())
            while left:
                visit(left.popleft())
                if time.monotonic() - began >= self.slice_seconds:
                    break
        if left:
            self._left = left
            return False
        self._next_round = time.monotonic() + self.seconds
        return True

    def at_once(self, look: Callable[[], None]) -> None:
        """Has a look besides the rounds, as far as the share allows it."""
        if time.monotonic() >= self._rests_until:
            with self._timed():
                look()

    @contextmanager
    def _timed(self) -> Iterator[float]:
        began = time.monotonic()
        try:
            yield began
        finally:
            now = time.monotonic()
            self._rests_until = now + (now - began) / self.share
