"""One `write_split` with a clock: from the first image that is encoded, in whichever process, to the manifest."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from en_bench.benchmark.prepare_images import Material
from en_bench.data.images import Encoded, ImageEncoder
from en_bench.data.sources import Source
from en_bench.data.writer import write_split

_noted: set[str] = set()  # folders in which this process has noted its first image


@dataclass(frozen=True)
class ClockedEncoder:
    """An encoder that notes when each process has started: it is warm, and has got its first image.

    Args:
        encoder: does the work.
        warm_up: reads an image that makes it import all it ever needs.
        folder: takes one file for each process, with its time (seconds of the system's monotonic clock).
    """

    encoder: ImageEncoder
    warm_up: Callable[[], bytes]
    folder: str

    def __call__(self, raw: bytes) -> Encoded:
        if self.folder not in _noted:
            _noted.add(self.folder)
            self.encoder(self.warm_up())
            Path(self.folder, str(os.getpid())).write_text(repr(time.monotonic()))
        return self.encoder(raw)

    def first(self) -> float:
        """When the first process started."""
        return min(float(path.read_text()) for path in Path(self.folder).iterdir())


def seconds_to_write(
    material: Material, samples: Sequence[Source], encoder: ImageEncoder, workers: int = 1, shards: int = 1
) -> float:
    """Seconds from the first image to the end of `write_split`, shards on disk and synchronised, manifest written.

    What comes before is left out: a look at the samples, the start of processes, imports. Of several processes the
    first one starts the clock.
    """
    with tempfile.TemporaryDirectory(dir=material.scratch) as folder:
        started, out = Path(folder) / "started", Path(folder) / "shards"
        started.mkdir()
        encode = ClockedEncoder(encoder, material.largest, str(started))
        written = write_split(
            out,
            samples,
            dataset="bench",
            split="train",
            classes=("image",),
            encode=encode,
            image=encoder.describe(),
            source={"bench": "prepare"},
            shards=shards,
            workers=workers,
            say=lambda text: None,
        )
        seconds = time.monotonic() - encode.first()
    assert written.count == len(samples)
    return seconds
