"""Tells how far a command is that is no Trainer's and goes through its batches once."""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from en_bench.matrix.progress import Progress, remove_progress, write_progress

_SECONDS_BETWEEN = 1.0


class PassProgress:
    """Writes `<folder>/progress.json` as `ProgressFile` does: at the beginning, then at most once a second.

    A context manager; the file goes at its end, also by an error. `steps` are the batches of the whole pass. Without a
    folder nothing is written.
    """

    def __init__(self, folder: Path | None, command: str, steps: int) -> None:
        self._folder, self._command, self._steps = folder, command, steps
        self._step = 0
        self._written = -math.inf
        self._images = 0  # since then
        self._rate: float | None = None
        self._first: float | None = None  # when the first batch, which also fills the pipelines, had been counted

    def __enter__(self) -> PassProgress:
        self._write(time.monotonic())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            remove_progress(self._folder)

    def count(self, images: int) -> None:
        """One batch more, of so many images. Raises LeaseLost as `write_progress` does."""
        now = time.monotonic()
        self._step += 1
        self._images += images
        self._first = now if self._first is None else self._first
        if now - self._written >= _SECONDS_BETWEEN:
            self._rate = self._images / max(now - self._written, 1e-9)
            self._write(now)

    def _write(self, now: float) -> None:
        self._written, self._images = now, 0
        if self._folder is None:
            return
        left = None
        if self._first is not None and self._step > 1:
            left = max(0, self._steps - self._step) * (now - self._first) / (self._step - 1)
        write_progress(
            self._folder,
            Progress(
                command=self._command,
                phase=self._command,
                epoch=None,
                epochs=None,
                step=self._step,
                steps=self._steps,
                images_per_second=self._rate,
                scores={},
                seconds_left=left,
                host=socket.gethostname(),
                pid=os.getpid(),
                time=time.time(),
            ),
        )
