"""Small splits whose every label is known, and ways to damage them of which hashes say nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from en_bench.cli import main
from en_bench.data.images import ImageEncoder
from en_bench.data.index import Index, index_bytes
from en_bench.data.manifest import Shard, load_manifest, save_manifest
from en_bench.data.masks import MaskEncoder
from en_bench.data.shards import TarWriter
from en_bench.data.sources import Skipped, Source
from en_bench.data.writer import write_split
from tests.images import coloured_png
from tests.scripts.raw import mask_png, png

COUNT = 9  # samples of the split, three in each of three shards
Files = Iterable[tuple[str, bytes]]
Edit = Callable[[str, bytes], Files]


def make(folder: Path, *, offset: int = 0) -> Path:
    """Samples s/0 .. s/8 of class i % 3, in their source's order; s/1 and s/4 are given another class."""
    samples = [
        Source(
            f"s/{i}",
            {"given": (i + (i in (1, 4))) % 3, "clean": i % 3},
            partial(coloured_png, i % 3, i + offset),
            f"raw/{i}",
        )
        for i in range(COUNT)
    ]
    encoder = ImageEncoder(encoding="png")
    write_split(
        folder,
        samples,
        dataset="toy",
        split="train",
        classes=("dark", "grey", "bright"),
        encode=encoder,
        image=encoder.describe(),
        source={"made": "toy"},
        noise={"given": {"kind": "by hand"}},
        skipped=[Skipped("", "raw/9", "empty file")],
        shards=3,
    )
    return folder


def make_masked(folder: Path) -> Path:
    """A split of two images of 24x16 pixels with masks of the classes 0, 1 and 255."""
    mask = np.repeat(np.array([[0, 1, 255]]), [8, 8, 8], axis=1).repeat(16, axis=0)
    samples = [
        Source(f"m/{i}", {}, partial(png, i, (24, 16)), f"raw/{i}", partial(bytes, mask_png(mask))) for i in range(2)
    ]
    encoder = ImageEncoder(encoding="png")
    write_split(
        folder,
        samples,
        dataset="scenes",
        split="val",
        classes=("sky", "road"),
        encode=encoder,
        image=encoder.describe(),
        source={},
        encode_mask=MaskEncoder({0: 0, 1: 1, 255: 255}, 2),
    )
    return folder


def verified(*arguments: object) -> tuple[int, list[str]]:
    """Exit code of `en-bench data verify` with one worker in this process, and the lines it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["data", "verify", *map(str, arguments), "--workers", "1"])
    return code, out.getvalue().splitlines()


def shard_of(split: Path, key: str) -> str:
    """Name of the shard that a sample lies in."""
    manifest = load_manifest(split)
    index = manifest.load_index()
    return manifest.shards[int(index.shard[index.keys.tolist().index(key.encode())])].name


def members(tar: Path) -> list[tuple[str, bytes]]:
    """(name, payload) of the files in a tar."""
    with tarfile.open(tar) as file:
        return [(member.name, file.extractfile(member).read()) for member in file]


def remake(split: Path, edit: Edit) -> None:
    """The split with other files in its tars, and a manifest and index that agree with where they lie."""
    manifest = load_manifest(split)
    index = manifest.load_index()
    row_of = {bytes(key).decode(): row for row, key in enumerate(index.keys)}
    column_of = {"png": 0, "jpg": 0, "mask.png": 1}
    shards = []
    for shard in manifest.shards:
        files = [new for name, payload in members(split / shard.name) for new in edit(name, payload)]
        with (split / shard.name).open("wb") as file:
            tar = TarWriter(file)
            offsets = tar.add(files)
            digest = tar.close()
        shards.append(Shard(shard.name, shard.samples, tar.size, digest))
        for (name, payload), offset in reversed(list(zip(files, offsets, strict=True))):  # the first of two counts
            key, _, suffix = name.partition(".")
            if suffix in column_of and key in row_of:
                index.offset[row_of[key], column_of[suffix]] = offset
                index.size[row_of[key], column_of[suffix]] = len(payload)
    replace_index(split, shards=tuple(shards), index=index)


def replace_index(split: Path, index: Index, **changes: object) -> None:
    """Another index, and a manifest with its hash and other changes."""
    content = index_bytes(index)
    (split / "index.npz").write_bytes(content)
    manifest = dataclasses.replace(load_manifest(split), index_sha256=hashlib.sha256(content).hexdigest(), **changes)
    save_manifest(manifest)


def replaced(name: str, payload: bytes) -> Edit:
    """An edit for `remake` that gives one file another payload."""
    return lambda found, content: [(found, payload if found == name else content)]
