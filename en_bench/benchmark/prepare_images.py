"""The images that preparing is measured on: those of an archive, copied under new names until they are enough."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from en_bench.benchmark.prepare_settings import Settings
from en_bench.data.archives import RawFiles
from en_bench.data.images import ImageEncoder, UnreadableImage
from en_bench.data.order import write_order
from en_bench.data.raw_bytes import FileBytes
from en_bench.data.sources import Source
from en_bench.data.split_job import SHARD_BYTES
from en_bench.errors import InputError

_ROOM = 2.2  # of the copies: themselves, and what is made of them


@dataclass(frozen=True)
class Material:
    """What is prepared.

    Attributes:
        images: the distinct JPEGs, RGB or grey, upright, each of them whole.
        left_out: files of the archive that are something else, of those that were looked at.
        scratch: folder for what is written while measuring.
        files: folder of the copies.
        parts: the copies, in parts of the same images in the same order, each of about one shard.
        largest: file of the image with the longest shorter side.
    """

    images: tuple[bytes, ...]
    left_out: int
    scratch: Path
    files: Path
    parts: tuple[tuple[Source, ...], ...]
    largest: FileBytes

    @property
    def samples(self) -> list[Source]:
        """All copies."""
        return [sample for part in self.parts for sample in part]

    @property
    def part_bytes(self) -> int:
        return sum(map(len, self.images)) * (len(self.parts[0]) // len(self.images))


@contextmanager
def material(settings: Settings) -> Iterator[Material]:
    """Copies the JPEGs of the archive below the scratch folder, and removes them in the end.

    Raises InputError for an archive that cannot be read or holds no JPEG, and where the copies find no room.
    """
    wanted = settings.gigabytes * 1e9
    count = max(2, math.ceil(wanted / SHARD_BYTES))
    images, sides, left_out = _chosen(settings.archive, wanted / count)
    copies = max(1, round(wanted / count / sum(map(len, images))))
    _check_room(settings.scratch, round(_ROOM * count * copies * sum(map(len, images))))
    with tempfile.TemporaryDirectory(prefix="en_bench_prepare_", dir=settings.scratch) as folder:
        files = Path(folder) / "files"
        parts = tuple(_part(files, number, images * copies) for number in range(count))
        os.sync()  # what is written back later would disturb whoever is measured then
        largest = FileBytes(str(files / parts[0][sides.index(max(sides))].origin))
        yield Material(images, left_out, Path(folder), files, parts, largest)


def _chosen(archive: Path, enough: float) -> tuple[tuple[bytes, ...], list[int], int]:
    """Plain JPEGs of `enough` bytes, or all there are, in an order drawn once; their shorter sides; others met."""
    raw, encoder = RawFiles(archive, nested=True), ImageEncoder()
    images: list[bytes] = []
    sides, left_out = [], 0
    for position in write_order(len(raw.names), 0).tolist():
        try:
            content = raw.read(raw.names[position])
            encoded = encoder(content)
        except (UnreadableImage, OSError):
            left_out += 1
            continue
        if not (encoded.kept and encoded.extension == "jpg"):
            left_out += 1
            continue
        images.append(content)
        sides.append(min(encoded.size))
        if sum(map(len, images)) >= enough:
            break
    if not images:
        raise InputError(f"{archive}: holds no upright RGB or grey JPEG: give an archive or folder of photographs")
    return tuple(images), sides, left_out


def _check_room(scratch: Path | None, needed: int) -> None:
    where = Path(tempfile.gettempdir()) if scratch is None else scratch
    free = shutil.disk_usage(where).free
    if free < needed:
        raise InputError(
            f"{where}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed: give another folder with --scratch, "
            "or fewer --gb"
        )


def _part(files: Path, number: int, images: tuple[bytes, ...]) -> tuple[Source, ...]:
    (files / f"{number:03d}").mkdir(parents=True)
    samples = []
    for position, content in enumerate(images):
        key = f"{number:03d}/{position:06d}"
        path = files / f"{key}.jpg"
        path.write_bytes(content)
        samples.append(Source(key, {"given": 0}, FileBytes(str(path)), f"{key}.jpg"))
    return tuple(samples)
