"""Small sets of images, made by the writer that makes the large ones. Without torch: tests start processes with it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from en_bench.data.images import ImageEncoder
from en_bench.data.sources import Source
from en_bench.data.writer import write_split


def coloured_png(label: int, seed: int, size: int = 32) -> bytes:
    """A noisy image whose brightness tells its class of three, so that a few steps learn something."""
    noise = np.random.default_rng(seed).integers(0, 60, (size, size, 3))
    image = Image.fromarray((noise + 60 * label).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_split(
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    classes: Sequence[str] = ("dark", "grey", "bright"),
    shards: int | None = None,
    dataset: str = "toy",
    size: int = 32,
) -> Path:
    """A split of `count` images, `size` pixels square, in shards of about 25 unless their number is given."""
    samples = [
        Source(
            key=f"toy-{seed}-{i:04d}",
            labels={"given": i % len(classes)},
            load=lambda i=i: coloured_png(i % len(classes), seed * 100_000 + i, size),  # type: ignore[misc]
            origin=f"toy {i}",
        )
        for i in range(count)
    ]
    encoder = ImageEncoder(encoding="png")
    write_split(
        folder,
        samples,
        dataset=dataset,
        split=folder.name,
        classes=classes,
        encode=encoder,
        image=encoder.describe(),
        source={"made": "toy"},
        shards=shards or -(-count // 25),
    )
    return folder
