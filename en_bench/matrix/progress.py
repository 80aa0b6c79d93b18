"""How far the training or validation in a run's folder is: a small file that it replaces as it goes."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from en_bench.errors import InputError
from en_bench.lease_guard import LeaseLost, require_lease
from en_bench.matrix.file_clock import FileClock
from en_bench.matrix.records import read_json

PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """How far a command is.

    `command` is what was called and `phase` what it does at the moment: `fit`, `validate` or `recalibrate`; a `fit`
    validates too. `epoch` counts from 1 and is None in all but a `fit`, whose `step` and `steps` are of the optimiser;
    those of the others are batches. `images_per_second` is over all ranks, the last that was measured in this phase.
    `scores` are the last ones by name (`top1`, ...; None where a training diverged). `seconds_left` are those of the
    command. What cannot be known, such as the end of a training without a number of epochs, is None. `time` is when
    this was written, in seconds since 1970, by the process `pid` on `host` and its clock.
    """

    command: str
    phase: str
    epoch: int | None
    epochs: int | None
    step: int
    steps: int | None
    images_per_second: float | None
    scores: Mapping[str, float | None]
    seconds_left: float | None
    host: str
    pid: int
    time: float


def progress_path(run: Path) -> Path:
    return run / PROGRESS


def write_progress(run: Path, progress: Progress) -> bool:
    """Replaces the file in one step; whether that could be done. Raises LeaseLost, so that who lost a cell ends soon.

    It is not forced to the disk, since after a crash nobody needs it. The temporary file has a fixed name: whoever is
    killed while it is written leaves no more than one.
    """
    path = progress_path(run)
    temporary = path.with_name(f".{PROGRESS}.new")
    try:
        require_lease()
        temporary.write_text(json.dumps(asdict(progress), allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # a full disk, say, which no training should end for
        return False
    return True


def remove_progress(run: Path) -> None:
    """The command has ended. What lies there is another's where the lease was lost."""
    with contextlib.suppress(OSError, LeaseLost):
        require_lease()
        progress_path(run).unlink(missing_ok=True)


def read_progress(run: Path) -> Progress | None:
    """What the command that works in `run` wrote last; None where there is nothing that can be read.

    A command that was killed leaves its file.
    """
    try:
        raw = read_json(progress_path(run))
        scores = raw["scores"]
        return Progress(
            command=_of(raw, "command", str),
            phase=_of(raw, "phase", str),
            epoch=_or_none(raw, "epoch", int),
            epochs=_or_none(raw, "epochs", int),
            step=_of(raw, "step", int),
            steps=_or_none(raw, "steps", int),
            images_per_second=_or_none(raw, "images_per_second", float),
            scores={name: _or_none(scores, name, float) for name in scores if isinstance(scores, Mapping)},
            seconds_left=_or_none(raw, "seconds_left", float),
            host=_of(raw, "host", str),
            pid=_of(raw, "pid", int),
            time=_of(raw, "time", float),
        )
    except (InputError, KeyError, TypeError, ValueError):
        return None


def seconds_since_written(run: Path, clock: FileClock) -> float:
    """How long ago the command in `run` has told something, by the clock that dates the files there; 0 if unknown."""
    try:
        return max(0.0, clock.now() - progress_path(run).stat().st_mtime)
    except OSError:
        return 0.0


def _of(raw: Mapping[str, Any], key: str, kind: type) -> Any:
    value = raw[key]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(key)
    return value


def _or_none(raw: Mapping[str, Any], key: str, kind: type) -> Any:
    return None if raw[key] is None else _of(raw, key, kind)
