"""A preparation in a process of its own that tests kill: `python -m tests.data.preparing FOLDER WORKERS [...]`."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from en_bench.data.images import Encoded, ImageEncoder
from en_bench.data.sources import Source
from en_bench.data.writer import write_split
from en_bench.errors import InputError
from tests.images import coloured_png

SAMPLES = 120
SHARDS = 8


@dataclass(frozen=True)
class SlowEncoder:
    """Takes its time, so that kills find work under way."""

    seconds: float

    def __call__(self, raw: bytes) -> Encoded:
        time.sleep(self.seconds)
        return ImageEncoder(short_side=24)(raw)


LOST = "TEST_RAW_LOST"  # of the environment: the raw files can be read while the file of that name is not there


def load(i: int) -> bytes:
    if LOST in os.environ and os.path.exists(os.environ[LOST]):
        raise OSError(5, "Input/output error")
    return b"broken" if i % 17 == 3 else coloured_png(i % 3, i)


def prepare(
    folder: str, workers: int, resume: bool = False, seconds: float = 0.0, die_at: int = 0, lost_after: int = 0
) -> None:
    """When so many samples are done, `die_at` kills this process, and `lost_after` takes the raw files away."""

    def progress(done: int, total: int, size: int) -> None:
        if die_at and done >= die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if lost_after and done >= lost_after:
            Path(os.environ[LOST]).touch()

    samples = [Source(f"s/{i:03d}", {"given": i % 3}, partial(load, i), f"raw/{i}") for i in range(SAMPLES)]
    write_split(
        folder,
        samples,
        dataset="toy",
        split="train",
        classes=("a", "b", "c"),
        encode=SlowEncoder(seconds),
        image={"short_side": 24},
        source={"made": "toy"},
        shards=SHARDS,
        workers=workers,
        resume=resume,
        progress=progress,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("workers", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--raw-lost-after", type=int, default=0)
    parser.add_argument("--lost-mark", default="")
    parser.add_argument("--file-limit", type=int, default=0)
    args = parser.parse_args()
    if args.file_limit:  # refuses writes in the middle of a shard, as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.file_limit, args.file_limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if args.lost_mark:
        os.environ[LOST] = args.lost_mark
    try:
        prepare(args.folder, args.workers, args.resume, args.seconds, args.die_at, args.raw_lost_after)
    except InputError as error:
        print(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
