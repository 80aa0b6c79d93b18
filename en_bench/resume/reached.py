"""How far the training is that a checkpoint holds, to be read without torch.

It lies in the checkpoint's own file, a zip, so that it is of that checkpoint whatever happens: also after a kill, or
where somebody puts another one in its place.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

_NAME = "en_bench_reached.json"
# What a damaged zip raises; RuntimeError where it seems to be encrypted.
_BROKEN = (OSError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, NotImplementedError)
_LARGEST = 4096  # bytes: what is longer is not ours


@dataclass(frozen=True)
class Reached:
    """Of a training that goes on from a checkpoint: `epoch`, from 1, is the one that is under way or comes next.

    `step` counts steps of the optimiser. `epochs` and `steps` are those of the whole, None where it has no such end.
    """

    epoch: int
    epochs: int | None
    step: int
    steps: int | None

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
        found = Reached(*(raw[name] for name in Reached.__dataclass_fields__))
    except (*_BROKEN, StopIteration, ValueError, KeyError, TypeError):
        return None
    counts = (found.epoch, found.step, found.epochs or 1, found.steps or 1)
    return found if all(type(count) is int and count >= 0 for count in counts) else None
