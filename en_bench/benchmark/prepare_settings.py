"""What is to be measured of preparing, from the flags."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from en_bench.data.images import ImageEncoder
from en_bench.errors import InputError

GIGABYTES = 2.0
SHORT_SIDE, QUALITY = 352, 90
REPEATS = {"rates": 8, "copy": 5, "workers": 3}  # readings of which a median is taken: of parts; of the whole
_QUICK_GIGABYTES = 1e-4
_COMMANDS = ("tar", "sha256sum", "sync")


@dataclass(frozen=True)
class Settings:
    """`archive` is a folder, tar or zip; `scratch` None means the system's folder for temporary files."""

    archive: Path
    gigabytes: float
    short_side: int
    quality: int
    workers: tuple[int, ...]
    repeats: Mapping[str, int]
    scratch: Path | None
    quick: bool

    def kept(self, verify: bool = True) -> ImageEncoder:
        """The encoder that keeps the bytes of plain JPEGs."""
        return ImageEncoder(verify=verify)

    def resized(self) -> ImageEncoder:
        """The encoder that reduces them."""
        return ImageEncoder(short_side=self.short_side, quality=self.quality)


def settings_of(args: argparse.Namespace) -> Settings:
    """Raises InputError for what cannot be measured."""
    if args.archive is None:
        raise InputError("no archive was given: name a tar, zip or folder of JPEGs")
    gigabytes = args.gb if args.gb is not None else _QUICK_GIGABYTES if args.quick else GIGABYTES
    if not 0 < gigabytes < float("inf"):
        raise InputError(f"--gb {gigabytes:g} is no amount of images: give GB above 0")
    if args.repeats is not None and args.repeats < 1:
        raise InputError(f"--repeats {args.repeats} is too small: use 1 or more")
    if args.scratch is not None and not args.scratch.is_dir():
        raise InputError(f"--scratch {args.scratch} is no folder: give one with room for the images twice over")
    missing = [command for command in _COMMANDS if shutil.which(command) is None]
    if missing:
        raise InputError(f"there is no command {' and no '.join(missing)} here to measure against: install coreutils")
    every = args.repeats if args.repeats is not None else 2 if args.quick else None
    found = Settings(
        archive=args.archive,
        gigabytes=gigabytes,
        short_side=args.short_side,
        quality=args.quality,
        workers=_workers(args.workers),
        repeats=REPEATS if every is None else dict.fromkeys(REPEATS, every),
        scratch=args.scratch,
        quick=args.quick,
    )
    found.resized()  # looks at its options
    return found


def _workers(text: str) -> tuple[int, ...]:
    """One process, which all are compared with, and those that are named."""
    counts = {1}
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise InputError(f"--workers {text}: expected numbers of processes such as 1,2 or 16")
        counts.add(int(part))
    return tuple(sorted(counts))
