"""The images that all contenders read: drawn from a split or repeated, in our format and in those of the peers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from en_bench.benchmark import data_peers
from en_bench.benchmark.data_settings import Settings, open_split
from en_bench.data.images import ImageEncoder
from en_bench.data.manifest import GIVEN, Manifest, load_manifest
from en_bench.data.order import write_order
from en_bench.data.reader import ShardReader
from en_bench.data.sources import Source
from en_bench.data.targets import labelled_rows
from en_bench.data.writer import write_split
from en_bench.errors import InputError

SHARDS = 8  # so that webdataset can shuffle shards, and give several workers some each
MANY_SHARDS = 96  # more than a reader keeps open
_ROOM = 1.2


@dataclass(frozen=True)
class Split:
    """The same images in several formats.

    Attributes:
        ours: split folder.
        folders: by peer, the folder of its format; those that are not installed are left out.
        bytes: of the images, in all.
        distinct: images; the others are copies of them.
    """

    ours: Path
    folders: Mapping[str, Path]
    bytes: int
    distinct: int


@dataclass(frozen=True)
class Material:
    """`original` is `shards` itself where no split of original files was given."""

    shards: Split
    original: Split
    scratch: Path


class Sample(NamedTuple):
    """An image file and its class."""

    payload: bytes
    label: int


@contextmanager
def material(settings: Settings) -> Iterator[Material]:
    """Writes the images below the scratch folder, and removes them in the end.

    Raises InputError where they find no room.
    """
    assert settings.shards is not None
    formats = ["webdataset", *(data_peers.PEERS if "peers" in settings.sections else [])]
    formats = [name for name in dict.fromkeys(formats) if data_peers.is_installed(name)]
    with tempfile.TemporaryDirectory(prefix="en_bench_data_", dir=settings.scratch) as folder:
        scratch = Path(folder)
        shards = _written(settings.shards, scratch / "shards", settings.samples, formats)
        original = shards
        if settings.original is not None:
            wanted = [name for name in formats if name == "webdataset"]
            original = _written(settings.original, scratch / "original", settings.samples, wanted)
        yield Material(shards, original, scratch)


def copy_split(source: Path, folder: Path, samples: int, shards: int) -> Manifest:
    """So many samples of a split as a split of its own: a part of it, or all and again from the first one."""
    manifest = load_manifest(source)
    index = manifest.load_index()
    rows = labelled_rows(manifest, index, GIVEN)
    chosen = np.resize(rows[write_order(len(rows), 0)[:samples]], samples)
    labels = index.labels[GIVEN]
    encode = ImageEncoder(verify=False)
    with ShardReader(manifest, index) as reader:
        sources = [
            Source(f"{number:07d}", {GIVEN: int(labels[row])}, partial(reader.read, int(row)), reader.where(int(row)))
            for number, row in enumerate(chosen)
        ]
        return write_split(
            folder,
            sources,
            dataset="bench",
            split="train",
            classes=manifest.classes,
            encode=encode,
            image=encode.describe(),
            source={"bench": "data"},
            shards=shards,
            say=lambda text: None,
        )


def samples_of(manifest: Manifest) -> Iterator[Sample]:
    """All samples, in natural order."""
    index = manifest.load_index()
    with ShardReader(manifest, index) as reader:
        for row in range(len(index)):
            yield Sample(reader.read(row), int(index.labels[GIVEN][row]))


def _written(source: Path, folder: Path, samples: int, formats: Sequence[str]) -> Split:
    manifest = open_split(source)
    index = manifest.load_index()
    mean = float(index.size[:, 0].mean())
    _check_room(folder.parent, round(_ROOM * samples * (mean + 2048) * (1 + len(formats))))
    copied = copy_split(source, folder / "ours", samples, SHARDS)
    if copied.skipped:
        raise InputError(
            f"{source}: {copied.skipped} of {samples} images cannot be read: see `en-bench data verify {source}`"
        )
    folders = {}
    for name in formats:
        folders[name] = folder / name
        write: Callable[[Path, Iterator[Sample], int], None] = data_peers.WRITERS[name]
        write(folders[name], samples_of(copied), -(-samples // SHARDS))
    total = int(copied.load_index().size[:, 0].sum())
    return Split(folder / "ours", folders, total, min(samples, len(labelled_rows(manifest, index, GIVEN))))


def _check_room(where: Path, needed: int) -> None:
    free = shutil.disk_usage(where).free
    if free < needed:
        raise InputError(
            f"{where}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed: give another folder with --scratch, "
            "or fewer --samples"
        )
