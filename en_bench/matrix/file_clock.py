"""The clock that dates the files of a folder: a file server's, as a rule, which may differ from ours."""

from __future__ import annotations

import os
import time
from pathlib import Path

_SECONDS_TO_TRUST = 15.0  # between two looks at it, for which ours tells how time passes


class FileClock:
    """The time by which the files in `folder` are dated, in seconds since 1970."""

    def __init__(self, folder: Path) -> None:
        # One for each user, whom another's file may deny its date: nothing is left behind that would become more.
        self._probe = folder / f".clock.{os.getuid()}"
        self._ahead, self._trusted_until = 0.0, 0.0

    def now(self) -> float:
        """Where the folder cannot be written, the time of this machine."""
        ours = time.monotonic()
        if ours >= self._trusted_until:
            try:
                self._probe.touch()
                dated = self._probe.stat().st_mtime
            except OSError:  # a full disk, or a folder that can only be read
                return time.time()
            ours = time.monotonic()
            self._ahead, self._trusted_until = dated - ours, ours + _SECONDS_TO_TRUST
        return ours + self._ahead
