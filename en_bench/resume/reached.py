"""How far the training is that a checkpoint holds, to be read without torch.

It lies in the checkpoint's own file, a zip, so that it is of that checkpoint whatever happens: also after a kill, or
where somebody puts another one in its place.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

_NAME = "en_bench_reached.json"
# What a damaged zip raises; RuntimeError where it seems to be encrypted.
_BROKEN = (OSError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, NotImplementedError)
_LARGEST = 4096  # bytes: what is longer is not ours


@dataclass(frozen=True)
class Pace:
    """What a training takes: seconds of one batch on every one of its `ranks`, without the first steps of each process,
    which start up and compile; and validated images per second over all ranks, None where none was measured."""

    seconds_per_step: float
    validation_images_per_second: float | None
    device: str
    ranks: int


@dataclass(frozen=True)
class Reached:
    """Of a training that goes on from a checkpoint: `epoch`, from 1, is the one that is under way or comes next.

    `step` counts steps of the optimiser. `epochs` and `steps` are those of the whole, None where it has no such end.
    `pace` is None where too few steps were made to tell.
    """

    epoch: int
    epochs: int | None
    step: int
    steps: int | None
    pace: Pace | None = None

    @property
    def share(self) -> float:
        """Of the training, from 0 to 1; 0 where its end is not known."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    def __str__(self) -> str:
        return f"epoch {self.epoch}" + ("" if self.epochs is None else f"/{self.epochs}")


def add_reached(file: IO[bytes], reached: Reached) -> None:
    """Adds it to the checkpoint that torch has written to `file`, which is open for reading too."""
    with zipfile.ZipFile(file, "a") as archive:
        # torch wants all members below one folder, whatever its name.
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/{_NAME}", json.dumps(asdict(reached)))


def read_reached(checkpoint: Path) -> Reached | None:
    """What lies in a checkpoint; None where there is none, or one of another program or a former version."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            # The last member, as a rule: a large network has thousands.
            member = next(m for m in reversed(archive.infolist()) if m.filename.rpartition("/")[2] == _NAME)
            raw = json.loads(archive.read(member)) if member.file_size <= _LARGEST else {}
        return reached_of(raw)
    except (*_BROKEN, StopIteration, ValueError, KeyError, TypeError):
        return None


def reached_of(raw: Mapping[str, Any]) -> Reached:
    """What `dataclasses.asdict` made of one, also by a former version. Raises KeyError, TypeError or ValueError."""
    counts = [raw[name] for name in ("epoch", "epochs", "step", "steps")]
    if not all(count is None or (type(count) is int and count >= 0) for count in counts) or None in counts[::2]:
        raise ValueError(f"no counts: {counts}")
    epoch, epochs, step, steps = counts
    return Reached(epoch, epochs, step, steps, None if raw.get("pace") is None else _pace(raw["pace"]))


def _pace(raw: Mapping[str, Any]) -> Pace:
    found = Pace(**raw)
    speeds = [found.seconds_per_step, *filter(None, [found.validation_images_per_second])]
    whole = type(found.ranks) is int and found.ranks > 0 and isinstance(found.device, str)
    if not whole or not all(type(speed) is float and 0 < speed < math.inf for speed in speeds):
        raise ValueError(f"no pace: {raw}")
    return found
