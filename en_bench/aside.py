"""Where what a former training left in a run's folder goes, so that a new one does not mix with it."""

from __future__ import annotations

import itertools
from pathlib import Path


def number_for_aside(run: Path) -> int:
    """The number that all that is set aside now gets, as in `metrics.1.jsonl`, `last.1.ckpt` and `dynamics.1`."""
    return next(number for number in itertools.count(1) if not (run / f"metrics.{number}.jsonl").exists())
