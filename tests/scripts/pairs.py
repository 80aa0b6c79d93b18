"""Masks made by hand, and what prepared segmentation sets hold."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from en_bench.data.manifest import load_manifest
from en_bench.data.reader import ShardReader
from tests.scripts import raw

HEIGHT, WIDTH = 36, 40  # of the pictures that `raw` makes
HALF = HEIGHT * WIDTH // 2  # pixels of either value in `halves`


def halves(top: int, bottom: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A mask of (height, width) whose upper half has one value and whose lower half another."""
    mask = np.full((height, width), bottom, dtype=np.uint8)
    mask[: height // 2] = top
    return mask


def upright(top: int, bottom: int) -> np.ndarray:
    """A mask for `raw.turned_jpeg`, as large as that is when it is turned upright."""
    return halves(top, bottom, height=WIDTH, width=HEIGHT)


def pairs_of(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of a prepared split by key: image (H, W, 3) and mask (H, W), read at the places that the index says."""
    manifest = load_manifest(folder)
    index = manifest.load_index()
    assert (manifest.members, manifest.columns, manifest.ignore_index) == (("image", "mask"), (), 255)
    found = {}
    with ShardReader(manifest, index) as reader:
        for row in range(len(index)):
            with Image.open(io.BytesIO(reader.read(row))) as image, Image.open(io.BytesIO(reader.read(row, 1))) as mask:
                assert (image.mode in ("RGB", "L"), mask.mode, mask.format) == (True, "L", "PNG")
                found[index.key(row)] = (np.asarray(image.convert("RGB")), np.asarray(mask))
    return found


def pixels_of(folder: Path) -> dict[str, int]:
    """Pixels per class name, and those "ignored", over all masks of a prepared split; classes of none are absent."""
    names = load_manifest(folder).classes
    total = sum(np.bincount(mask.ravel(), minlength=256) for _, mask in pairs_of(folder).values())
    return {"ignored" if n == 255 else names[n]: int(count) for n, count in enumerate(total) if count}


def same_masks(folder: Path, wanted: Mapping[str, np.ndarray]) -> None:
    """Asserts that the split's masks are these, by key, pixel by pixel."""
    found = pairs_of(folder)
    assert found.keys() == wanted.keys()
    for key, mask in wanted.items():
        assert np.array_equal(found[key][1], mask), key
        assert found[key][0].shape[:2] == mask.shape, key


def odd_pairs(image: str, mask: str, names: Iterable[str]) -> dict[str, bytes]:
    """Files that cannot become samples, two or one for each of `names`, by patterns such as "train/{}.jpg".

    In the order of their names: an empty image, a truncated one, one without a mask, a mask without an image, a mask of
    another size, an RGB mask, an empty mask, a truncated one, a mask that fits a turned image as it is stored.
    """
    good, index = raw.jpeg(1), raw.mask_png(halves(1, 2))
    noise = np.random.default_rng(0).integers(1, 10, (HEIGHT, WIDTH))
    rows: list[tuple[bytes | None, bytes | None]] = [
        (b"", index),
        (raw.truncated_jpeg(2), raw.mask_png(halves(1, 2, 160, 200))),
        (good, None),
        (None, index),
        (good, raw.mask_png(halves(1, 2, 18, 20))),
        (good, raw.png(3)),
        (good, b""),
        (good, raw.mask_png(noise)[:200]),
        (raw.turned_jpeg(4), index),
    ]
    files = {}
    for name, (left, right) in zip(names, rows, strict=True):
        files |= {pattern.format(name): f for pattern, f in ((image, left), (mask, right)) if f is not None}
    return files
