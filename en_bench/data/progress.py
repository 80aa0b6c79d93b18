"""How far the preparation of a split is, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from en_bench.duration import duration

_SECONDS_PER_LINE = 10.0  # between progress lines where there is no terminal
_SECONDS_PER_BAR = 0.1


class Progress:
    """Shows (samples done, samples in all, bytes written): a bar on a terminal, else now and then a line.

    The rate, and the time left by it, are over what was done since the first call: what an interrupted run had done
    does not count.
    """

    def __init__(self, split: str) -> None:
        self._split = split
        self._terminal = sys.stderr.isatty()
        self._start = self._shown = time.monotonic()
        self._done_before: int | None = None
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:  # what follows begins on a line of its own
            print(file=sys.stderr)

    def __call__(self, done: int, total: int, size: int) -> None:
        now = time.monotonic()
        if self._done_before is None:
            self._done_before, self._start = done, now
        finished = done == total
        if not finished and now - self._shown < (_SECONDS_PER_BAR if self._terminal else _SECONDS_PER_LINE):
            return
        self._shown = now
        rate = (done - self._done_before) / max(now - self._start, 1e-9)
        left = f", {duration((total - done) / rate)} left" if rate > 0 and not finished else ""
        text = f"{self._split}: {self._told(done, total, size, rate)}{left}"
        if self._terminal:
            filled = 30 * done // total
            bar = f"\r[{'#' * filled}{'.' * (30 - filled)}] {text}\033[K"
            print(bar, end="\n" if finished else "", file=sys.stderr, flush=True)
            self._open = not finished
        else:
            print(text, file=sys.stderr, flush=True)

    def _told(self, done: int, total: int, size: int, rate: float) -> str:
        pace = f", {rate:,.0f}/s" if rate > 0 else ""
        return f"{done:,} of {total:,} samples, {size / 1e6:,.1f} MB{pace}"


class ScanProgress(Progress):
    """Shows (shards done, shards in all, bytes read), and how many samples were found in them.

    Attributes:
        samples: found so far.
    """

    samples = 0

    def _told(self, done: int, total: int, size: int, rate: float) -> str:
        pace = f", {size / 1e6 / max(time.monotonic() - self._start, 1e-9):,.0f} MB/s" if rate > 0 else ""
        return f"{done:,} of {total:,} shards, {self.samples:,} samples, {size / 1e6:,.1f} MB{pace}"
